"""The webhook endpoint that setup registers."""
