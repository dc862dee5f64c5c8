"""What a run keeps on disk: its configuration, its checkpoints and its weights."""
