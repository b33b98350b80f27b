"""The gRPC services: a message in, one call, a message out."""
