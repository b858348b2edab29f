"""One result, statistics over seeds, the report."""
