"""Telemetry as the agent takes it: a process that reads the sources, and the hub that hands out what it read."""
