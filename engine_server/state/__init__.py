"""State of a sync: its checkpoints, and the schemas of their streams."""
