"""Small commands: tasks, predict."""
