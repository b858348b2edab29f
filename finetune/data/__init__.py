"""Tasks as data, and labelled texts from files and the hub."""
