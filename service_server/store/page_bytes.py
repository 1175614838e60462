"""Maximum size of a page of a list."""

# Below the 4 MiB that gRPC clients accept by default. A larger single item has a page of its own.
PAGE_BYTES = 3 * 1024 * 1024
