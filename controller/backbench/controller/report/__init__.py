"""Results for programs (JSON documents) and for people (tables)."""
