"""The stages of a sync: async generators over messages, one per file, named for their effect."""
