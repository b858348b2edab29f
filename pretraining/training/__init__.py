"""Training: from settings and stores to a checkpoint."""
