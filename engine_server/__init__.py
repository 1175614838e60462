"""The engine: runs source-to-destination pipelines, one per request, and remembers nothing."""
