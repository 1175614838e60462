"""The Stripe source: an account's objects, listed and kept current."""
