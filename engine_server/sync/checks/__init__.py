"""First step of a sync: checks of the request, before any work."""
