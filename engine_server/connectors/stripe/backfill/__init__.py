"""Backfill: reads ranges of each stream in parallel, with a checkpoint after each page."""
