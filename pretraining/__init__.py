"""How text becomes a loss: corpus, store, layouts, corruption, objectives and the loop."""
