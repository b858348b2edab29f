"""Cores: ids and an attention pattern in, hidden states out."""
