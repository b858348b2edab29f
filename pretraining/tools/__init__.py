"""Small commands: prepare, list, pairs, entities, linked."""
