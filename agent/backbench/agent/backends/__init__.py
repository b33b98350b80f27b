"""Ways of executing a model: one module a backend, and one line in `table.py`."""
