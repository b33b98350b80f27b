"""The agent: runs on the device, executes models, reports what it measured."""

__version__ = "0.1.0"
