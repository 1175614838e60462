"""Leases on pipelines, and calls in flight."""
