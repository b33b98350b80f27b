"""The process that measures: no gRPC, no messages, no I/O inside the timed window."""
