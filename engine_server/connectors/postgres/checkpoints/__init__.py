"""The checkpoints that a schema records beside the rows that they account for."""
