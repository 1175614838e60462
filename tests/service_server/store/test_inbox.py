"""Statements of the inbox, whose cost depends on pending events and not on the history."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from service_server.store import pipelines
from service_server.store.database import Connection, Database
from service_server.store.queries import load_queries
from tests.service_server.store.test_pipelines import stored

_SQL = load_queries("inbox.sql")
_EVENTS = 20_000


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[Connection]:
    """Return a connection to a database with thousands of applied events and ten pending ones."""
    async with database.connection() as connection:
        for number in range(20):
            await pipelines.insert(connection, stored(f"pipeline-{number}"))
        await connection.execute(
            "INSERT INTO pipesync.webhook_events (pipeline_id, event_id, arrival, event_type,"
            " create_time, status, finish_time, event)"
            " SELECT 'pipeline-' || n % 20, 'evt_' || n, n, 'customer.updated', now(),"
            " CASE WHEN n > $1 - 10 THEN 1 WHEN n % 5000 = 0 THEN 3 ELSE 2 END,"
            " CASE WHEN n % 100 = 0 THEN now() - interval '8 days' ELSE now() END, '{}'"
            " FROM generate_series(1, $1) AS n",
            _EVENTS,
        )
        await connection.execute("ANALYZE pipesync.webhook_events")
        yield connection


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("last_pending", ("pipeline-1",)),
        ("oldest_pending", ("pipeline-1", 2**63 - 1, 500, 4_000_000, False)),
        ("oldest_pending", ("pipeline-1", 2**63 - 1, 500, 4_000_000, True)),
        ("mark_applied", ("pipeline-1", ["evt_1", "evt_21"], 1, "epoch", 7)),
        ("mark_failed", ("pipeline-1", "evt_1", "why", 3)),
        ("repeat_after", ("pipeline-1", ["evt_1", "evt_21"], 7, datetime.now(UTC))),
        ("requeue_repeats", ()),
        ("waiting_pipelines", (1, 1)),
        ("backlog", ()),
        ("list", ("pipeline-1", 2**63 - 1, 51)),
        ("list_pending", ("pipeline-1", 2**63 - 1, 51)),
        ("list_applied", ("pipeline-1", 2**63 - 1, 51)),
        ("list_dead_lettered", ("pipeline-1", 2**63 - 1, 51)),
        ("missing", ("pipeline-1", ["evt_1", "evt_21"])),
        ("replay", ("pipeline-1", ["evt_1", "evt_21"])),
        ("replay_dead_lettered", ("pipeline-1",)),
        ("prune", (timedelta(days=7), 100)),
    ],
)
async def test_no_statement_reads_the_history(
    connection: Connection, name: str, arguments: tuple[object, ...]
) -> None:
    async with connection.transaction():
        rows = await connection.fetch(f"EXPLAIN (ANALYZE, COSTS OFF) {_SQL[name]}", *arguments)
    plan = "\n".join(row[0] for row in rows)
    assert "Seq Scan on webhook_events" not in plan, plan
    read = [int(float(count)) for count in re.findall(r"actual time=\S+ rows=([\d.]+)", plan)]
    assert read, plan
    assert max(read) <= 100, plan
    removed = [int(count) for count in re.findall(r"Rows Removed by Filter: (\d+)", plan)]
    assert sum(removed) <= 100, plan
