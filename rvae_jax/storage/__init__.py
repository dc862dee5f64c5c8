"""What a run keeps on disk: its configuration, checkpoints, weights."""
