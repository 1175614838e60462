"""Fixtures that all tests share."""

import gc
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest

from tests.databases import Databases
from tests.pgbouncer import MISSING
from tests.postgres import PostgresCluster
from tests.programs import programs

# Several services share a machine here, each with an HTTP side.
os.environ.setdefault("PIPESYNC_HTTP", "127.0.0.1:0")
# Programs that tests start make no calls before they replace the forked process. gRPC's
# preparations for a fork may kill them when a call is in progress here.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# Hundreds of processes load the same modules: each is compiled once, not by every process.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.fixture(scope="session", autouse=True)
def _warm_programs() -> Iterator[None]:
    """Start this project's programs from processes that have their modules loaded."""
    programs.are_warm = True
    yield
    programs.close()


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[PostgresCluster]:
    """Yield the run's Postgres: a missing one is an error, never a skip."""
    # Not below pytest's own directory: every new run of pytest closes that to other users, and as
    # root Postgres runs as one. A killed server may still write while its data are removed.
    with tempfile.TemporaryDirectory(
        prefix="pipesync-tests-", ignore_cleanup_errors=True
    ) as directory:
        cluster = PostgresCluster(Path(directory) / "postgres")
        yield cluster
        cluster.stop()


@pytest.fixture(scope="session")
def databases(postgres_cluster: PostgresCluster) -> Databases:
    """Return the databases of the run's Postgres."""
    return Databases(postgres_cluster)


@pytest.fixture
async def database_url(databases: Databases) -> AsyncIterator[str]:
    """Yield the URL of an empty database of the test's own."""
    async with databases.taken() as url:
        yield url


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave all modules and tests, which stay to the end, to no garbage collection."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report prominently that tests of poolers were skipped."""
    left_out = [
        report
        for report in terminalreporter.getreports("skipped")
        if MISSING in str(report.longrepr)
    ]
    if left_out:
        terminalreporter.section("POOLERS WERE NOT TESTED", red=True, bold=True)
        terminalreporter.line(f"{len(left_out)} tests were skipped: {MISSING}", red=True)
