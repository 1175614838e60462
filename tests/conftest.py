"""Fixtures that all tests share."""

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from engine_server.connectors.stripe.clock import CLOCKS
from tests.leaks import leaks
from tests.pgbouncer import MISSING
from tests.postgres import PostgresCluster

# Several services share a machine here, each with an HTTP side.
os.environ.setdefault("PIPESYNC_HTTP", "127.0.0.1:0")
# Programs that tests start make no calls before they are programs of their own. Preparing for that
# may kill them when a call is under way here.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


@pytest.fixture(autouse=True)
def clocks_of_no_other_test() -> None:
    """Forget the clocks of other tests' simulators, one of which may have had the same port."""
    CLOCKS.forget()


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[PostgresCluster]:
    """The run's Postgres: a missing one is an error, never a skip."""
    # Not below pytest's own directory: every new run of pytest closes that to other users, and as
    # root Postgres runs as one.
    # A server that had to be killed may still write while its data are removed.
    with tempfile.TemporaryDirectory(
        prefix="pipesync-tests-", ignore_cleanup_errors=True
    ) as directory:
        cluster = PostgresCluster(Path(directory) / "postgres")
        yield cluster
        cluster.stop()


@pytest.fixture
async def database_url(postgres_cluster: PostgresCluster) -> AsyncIterator[str]:
    """The URL of an empty database that is dropped after the test."""
    await postgres_cluster.trade_durability_for_speed()
    name = await postgres_cluster.create_database()
    yield postgres_cluster.url(name)
    await leaks.search_database(postgres_cluster.url(name))
    await postgres_cluster.drop_database(name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly that tests of poolers were left out."""
    left_out = [
        report
        for report in terminalreporter.getreports("skipped")
        if MISSING in str(report.longrepr)
    ]
    if left_out:
        terminalreporter.section("POOLERS WERE NOT TESTED", red=True, bold=True)
        terminalreporter.line(f"{len(left_out)} tests were skipped: {MISSING}", red=True)
