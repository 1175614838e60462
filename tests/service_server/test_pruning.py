"""Tests for the pruning of old runs."""

import asyncio
from datetime import UTC, datetime, timedelta

from service_server.background.heartbeats import Heartbeats
from service_server.pruning import prune_runs, pruning_runs
from service_server.store import pipelines, runs
from service_server.store.database import Database
from tests.service_server.store.test_pipelines import stored
from tests.service_server.store.test_runs import NOON, run

DAY = timedelta(days=1)


async def kept(database: Database, pipeline_id: str) -> list[str]:
    async with database.connection() as connection:
        found, _ = await runs.list_newest_first(connection, pipeline_id, 99, after=None)
    return [one.run_id for one in found]


async def put(database: Database, pipeline_id: str, starts: dict[str, datetime]) -> None:
    async with database.connection() as connection:
        await pipelines.insert(connection, stored(pipeline_id))
        for run_id, start in starts.items():
            one = run(run_id, start)
            one.pipeline_id = pipeline_id
            await runs.put(connection, one)


async def test_old_runs_of_any_pipeline_are_deleted(database: Database) -> None:
    many = {
        f"old-{number:02}": NOON - 2 * DAY + number * timedelta(hours=1) for number in range(25)
    }
    await put(database, "busy", {**many, "new": NOON + DAY})
    await put(database, "quiet", {"one": NOON - 9 * DAY, "two": NOON - 8 * DAY})
    await put(database, "same-time", {"a": NOON - DAY, "b": NOON - DAY})
    await put(database, "idle", {})
    assert await prune_runs(database, NOON) == 27
    assert await kept(database, "busy") == ["new"]
    assert await kept(database, "quiet") == ["two"]
    assert await kept(database, "same-time") == ["b"]
    assert await prune_runs(database, NOON) == 0


async def test_a_recent_run_is_kept(database: Database) -> None:
    await put(database, "first", {"old": NOON - DAY, "at": NOON, "after": NOON + DAY})
    assert await prune_runs(database, NOON) == 1
    assert await kept(database, "first") == ["after", "at"]


async def test_a_service_deletes_old_runs_at_its_start(database: Database) -> None:
    now = datetime.now(UTC)
    await put(database, "first", {"old": now - 31 * DAY, "new": now - 29 * DAY})
    async with asyncio.timeout(10), pruning_runs(database, 30 * DAY, Heartbeats()):
        while await kept(database, "first") != ["new"]:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
