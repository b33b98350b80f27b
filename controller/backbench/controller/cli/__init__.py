"""The command line: reads arguments, calls an operation, prints. What is heavy is imported inside the commands."""
