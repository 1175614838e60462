"""Rows that a destination holds, listed by the key of their account for a reconcile."""
