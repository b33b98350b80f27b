"""Sources of telemetry: one module a source, and one line in `table.py`."""
