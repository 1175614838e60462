"""Stages of a sync: async generators over messages, one per module, named for their effect."""
