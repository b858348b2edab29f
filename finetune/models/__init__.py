"""A core under a task's head."""
