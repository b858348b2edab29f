"""How well a model scores text: sentences, minimal pairs, hidden words."""
