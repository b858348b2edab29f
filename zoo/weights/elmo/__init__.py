"""ELMo's own files: its arrays, and the folders that hold them."""
