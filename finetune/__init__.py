"""Fine-tuning: a pretrained run folder, a table of tasks and several seeds in; scores with their spread out."""
