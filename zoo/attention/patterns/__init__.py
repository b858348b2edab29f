"""Patterns of attention that configs name by class path; the room above shows them."""
