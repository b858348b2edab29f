"""Characters, words and sentences of a text; lists in files."""
