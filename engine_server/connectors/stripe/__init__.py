"""The Stripe source: what an account holds, listed and kept current."""
