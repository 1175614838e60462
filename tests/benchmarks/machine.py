"""The machine that benchmarks run on, and a Postgres of their own."""

import os
import platform
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import psutil

from tests.postgres import PostgresCluster


@contextmanager
def own_postgres() -> Iterator[PostgresCluster]:
    """Yield an empty Postgres with default settings, for the length of the block.

    From then on, SIGTERM ends the process by ``SystemExit``, so that this Postgres is stopped.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="pipesync-benchmark-") as directory:
        cluster = PostgresCluster(Path(directory) / "postgres")
        try:
            yield cluster
        finally:
            cluster.stop()


async def description(cluster: PostgresCluster) -> str:
    """Return one line about the machine and the Postgres that figures come from."""
    connection = await asyncpg.connect(cluster.url("postgres"))
    try:
        postgres = await connection.fetchval("SHOW server_version")
    finally:
        await connection.close()
    return f"{hardware()}, Postgres {postgres}"


def hardware() -> str:
    """Return one line about the machine."""
    # The cores that this process may use, which can be fewer than the machine has.
    cores = len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory().total / 1e9
    return (
        f"{cores} cores, {memory:.0f} GB memory, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}"
    )
