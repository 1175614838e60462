"""Due pipelines among many others."""

from datetime import timedelta

import pytest

from service_server.background.fair_shares import IdFilter
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
    """Return the plan of a query."""
    async with database.transaction() as connection:
        rows = await connection.fetch(f"EXPLAIN {query}", *arguments)
    return "\n".join(row[0] for row in rows)


async def test_no_query_of_the_scheduler_reads_all_pipelines(many: Database) -> None:
    lifecycle, run = load_queries("lifecycles.sql"), load_queries("runs.sql")
    cases: list[tuple[str, tuple[object, ...]]] = [
        (lifecycle["claim"], (50, MINUTE, [], None)),
        (lifecycle["claim"], (50, MINUTE, ["a-"], ["p-", "q-"])),
        (lifecycle["time_to_next"], ([], None)),
        (lifecycle["time_to_next"], (["a-"], ["p-", "q-"])),
        (lifecycle["get"], ("p-0001",)),
        (lifecycle["put"], ("p-0001", "{}", 0, MINUTE)),
        (lifecycle["postpone"], ("p-0001", MINUTE)),
        (run["prune"], (["p-0001"], NOON, 10)),
    ]
    for query, arguments in cases:
        assert "Seq Scan" not in await plan(many, query, *arguments), query


async def test_a_due_pipeline_is_claimed_once(many: Database) -> None:
    async with many.connection() as connection:
        claims = await lifecycles.claim(connection, 50, MINUTE)
        assert [claim.pipeline_id for claim in claims] == ["p-2500"]
        assert await lifecycles.claim(connection, 50, MINUTE) == []
        next_due = await lifecycles.time_to_next(connection)
    assert next_due is not None
    assert timedelta(0) < next_due <= MINUTE


async def test_no_time_is_next_if_all_pipelines_wait_for_a_wake(many: Database) -> None:
    async with many.connection() as connection:
        await connection.execute("UPDATE pipesync.lifecycles SET due_time = 'infinity'")
        assert await lifecycles.time_to_next(connection) is None


async def test_no_time_is_next_without_continuous_pipelines(database: Database) -> None:
    async with database.connection() as connection:
        assert await lifecycles.time_to_next(connection) is None


async def test_the_due_pipelines_of_some_prefixes_are_claimed(many: Database) -> None:
    async with many.connection() as connection:
        await connection.execute(
            "UPDATE pipesync.lifecycles SET due_time = now() - interval '1 s'"
            " WHERE pipeline_id LIKE 'p-100%'"
        )
        among = IdFilter(excluded={"p-1001", "p-25"}, required={"p-1001", "p-1002", "p-25"})
        assert await lifecycles.time_to_next(connection, among) == timedelta(0)
        claims = await lifecycles.claim(connection, 50, MINUTE, among)
        assert [claim.pipeline_id for claim in claims] == ["p-1002"]
        next_due = await lifecycles.time_to_next(connection, among)
        assert next_due is not None
        assert next_due > timedelta(0)
        claims = await lifecycles.claim(connection, 50, MINUTE)
    assert {claim.pipeline_id for claim in claims} == {
        "p-2500",
        *(f"p-100{digit}" for digit in range(10) if digit != 2),
    }
