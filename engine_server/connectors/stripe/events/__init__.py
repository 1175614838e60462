"""Stripe's events, and the records that they make."""
