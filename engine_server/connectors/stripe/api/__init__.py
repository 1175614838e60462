"""Access to the Stripe API: one client per key, with its rate limit, retries and clock."""
