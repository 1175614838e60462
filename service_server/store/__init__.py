"""What the service remembers, in Postgres."""
