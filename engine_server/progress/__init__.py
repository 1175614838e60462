"""Progress of a run and of a request."""
