"""``zoo show``: what an objective does to a text."""
