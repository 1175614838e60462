"""Finding what is due, among many pipelines."""

from datetime import timedelta

import pytest

from service_server.store import lifecycles
from service_server.store.database import Database
from service_server.store.queries import load_queries
from tests.service_server.store.test_runs import NOON

MINUTE = timedelta(minutes=1)
FILL = """
INSERT INTO pipesync.pipelines
    (id, config, sealed_config, desired_status, status, sync_policy, etag)
SELECT 'p-' || lpad(number::text, 4, '0'), '{}', '', 1, 3, 2, 'e'
FROM generate_series(1, 5000) AS number;
INSERT INTO pipesync.lifecycles (pipeline_id, due_time)
SELECT id, now() + interval '1 hour' FROM pipesync.pipelines;
INSERT INTO pipesync.runs (pipeline_id, run_id, status, start_time, progress)
SELECT id, number::text, 2, now() - number * interval '1 hour', ''
FROM pipesync.pipelines, generate_series(1, 20) AS number;
UPDATE pipesync.lifecycles SET due_time = now() - interval '1 s' WHERE pipeline_id = 'p-2500';
ANALYZE;
"""


@pytest.fixture
async def many(database: Database) -> Database:
    async with database.connection() as connection:
        await connection.execute(FILL)
    return database


async def plan(database: Database, query: str, *arguments: object) -> str:
    """How Postgres would run a query."""
    async with database.transaction() as connection:
        rows = await connection.fetch(f"EXPLAIN {query}", *arguments)
    return "\n".join(row[0] for row in rows)


async def test_no_query_of_a_scheduler_looks_at_every_pipeline(many: Database) -> None:
    lifecycle, run = load_queries("lifecycles.sql"), load_queries("runs.sql")
    cases: list[tuple[str, tuple[object, ...]]] = [
        (lifecycle["claim"], (50, MINUTE)),
        (lifecycle["time_to_next"], ()),
        (lifecycle["get"], ("p-0001",)),
        (lifecycle["put"], ("p-0001", "{}", 0, MINUTE)),
        (lifecycle["postpone"], ("p-0001", MINUTE)),
        (run["prune"], (["p-0001"], NOON, 10)),
    ]
    for query, arguments in cases:
        assert "Seq Scan" not in await plan(many, query, *arguments), query


async def test_what_is_due_is_found_once(many: Database) -> None:
    async with many.connection() as connection:
        claims = await lifecycles.claim(connection, 50, MINUTE)
        assert [claim.pipeline_id for claim in claims] == ["p-2500"]
        assert await lifecycles.claim(connection, 50, MINUTE) == []
        next_due = await lifecycles.time_to_next(connection)
    assert next_due is not None
    assert timedelta(0) < next_due <= MINUTE


async def test_nothing_is_next_where_all_wait_to_be_woken(many: Database) -> None:
    async with many.connection() as connection:
        await connection.execute("UPDATE pipesync.lifecycles SET due_time = 'infinity'")
        assert await lifecycles.time_to_next(connection) is None


async def test_nothing_is_next_where_no_pipeline_runs_by_itself(database: Database) -> None:
    async with database.connection() as connection:
        assert await lifecycles.time_to_next(connection) is None
