"""Postgres that the service starts for itself."""
