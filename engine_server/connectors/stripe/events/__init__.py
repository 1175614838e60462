"""Stripe's events, and the records made from them."""
