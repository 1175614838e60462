"""Connections to a destination's database: pool, transactions, errors and retries."""
