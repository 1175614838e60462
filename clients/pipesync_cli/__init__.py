"""Command-line program ``pipelines``, a client of the service."""
