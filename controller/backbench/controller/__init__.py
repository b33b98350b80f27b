"""The controller: pushes models, watches runs, keeps every frame, and gives the verdict."""

__version__ = "0.1.0"
