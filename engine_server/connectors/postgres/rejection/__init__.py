"""Records that Postgres rejects: found in their batch and kept in a table."""
