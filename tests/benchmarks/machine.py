"""What the benchmarks run on: this machine, and a Postgres of their own."""

import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import psutil

from tests.postgres import PostgresCluster


@contextmanager
def own_postgres() -> Iterator[PostgresCluster]:
    """An empty Postgres as its makers set it up, for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="pipesync-benchmark-") as directory:
        cluster = PostgresCluster(Path(directory) / "postgres")
        try:
            yield cluster
        finally:
            cluster.stop()


async def description(cluster: PostgresCluster) -> str:
    """One line that says where figures come from."""
    connection = await asyncpg.connect(cluster.url("postgres"))
    try:
        postgres = await connection.fetchval("SHOW server_version")
    finally:
        await connection.close()
    return f"{hardware()}, Postgres {postgres}"


def hardware() -> str:
    """The same where no Postgres takes part."""
    # What this process may use, which is not all that the machine has.
    cores = len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory().total / 1e9
    return (
        f"{cores} cores, {memory:.0f} GB memory, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}"
    )
