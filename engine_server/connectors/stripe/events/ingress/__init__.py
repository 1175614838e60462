"""Ingress of events by webhook, by the Stripe CLI's WebSocket, or as inputs of a request."""
