"""A prepared task, and one run of it."""
