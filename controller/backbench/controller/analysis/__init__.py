"""Statistics and judgements: pure functions on numpy arrays, no input or output."""
