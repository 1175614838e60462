"""Webhooks: taken in, kept, applied through the engine, shown and replayed."""
