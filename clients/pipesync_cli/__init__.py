"""The program ``pipelines``: the service, from a terminal."""
