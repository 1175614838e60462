"""Checkpoints that a schema records together with the rows that they account for."""
