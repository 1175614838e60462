"""Storage of the service in its own Postgres database."""
