"""One module for each family, each with a ``FAMILY`` of rows; found by themselves."""
