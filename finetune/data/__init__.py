"""Tasks as rows of facts, and labelled texts from files and the hub."""
