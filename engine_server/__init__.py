"""Stateless engine that runs source-to-destination pipelines, one per request."""

import os

# gRPC writes text from peers to stderr, where a peer could forge lines of the log. It reads this
# variable on import, so it must be set first.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
