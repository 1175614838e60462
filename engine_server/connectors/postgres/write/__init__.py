"""Writes of a sync: batches in order, each committed with its checkpoints."""
