"""Syncs: sessions of pipelines, and the calls of the engine that they make."""
