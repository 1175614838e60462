"""The service, which stores pipelines and their state, and has the engine run them."""

import os

# gRPC writes messages of a peer to stderr verbatim, so that anyone could forge log lines. It reads
# this variable on import, so nothing may import gRPC before.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
