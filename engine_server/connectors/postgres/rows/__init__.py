"""Rows of records: keys, metadata, batches and the statements that upsert them."""
