"""YAML files, command lines and class paths to typed settings."""
