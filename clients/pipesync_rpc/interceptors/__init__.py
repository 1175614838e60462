"""What surrounds every call: identities, the error boundary, one log event, tokens."""
