"""Check of a database, its tables and the rights of the role, before a sync."""
