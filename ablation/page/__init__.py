"""An ablation as one HTML page: nothing fetched, no script, light and dark."""
