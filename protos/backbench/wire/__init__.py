"""Domain objects to messages and back, errors to statuses and back, and the record format of journals."""
