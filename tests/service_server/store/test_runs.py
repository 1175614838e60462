from datetime import UTC, datetime, timedelta

from pipesync.v1.pipeline_service_pb2 import Run
from pipesync.v1.progress_pb2 import Progress, RunStatus
from service_server.store import pipelines, runs
from service_server.store.database import Database
from tests.service_server.store.test_pipelines import stored

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def run(run_id: str, start: datetime, progress: Progress | None = None) -> Run:
    one = Run(pipeline_id="first", run_id=run_id, status=RunStatus.RUN_STATUS_STARTED)
    one.start_time.FromDatetime(start)
    one.progress.CopyFrom(progress or Progress())
    return one


async def test_runs_are_listed_newest_first_page_by_page(database: Database) -> None:
    async with database.connection() as connection:
        await pipelines.insert(connection, stored("first"))
        for hour in range(5):
            await runs.put(connection, run(f"run-{hour}", NOON + timedelta(hours=hour // 2)))
        page, _ = await runs.list_newest_first(connection, "first", 2, after=None)
        last = page[-1]
        rest, _ = await runs.list_newest_first(
            connection, "first", 9, after=(last.start_time.ToDatetime(tzinfo=UTC), last.run_id)
        )
    assert [one.run_id for one in page + rest] == ["run-4", "run-3", "run-2", "run-1", "run-0"]


async def test_pages_neither_repeat_nor_skip_a_run_while_newer_ones_begin(
    database: Database,
) -> None:
    async with database.connection() as connection:
        await pipelines.insert(connection, stored("first"))
        for hour in range(4):
            await runs.put(connection, run(f"run-{hour}", NOON + timedelta(hours=hour)))
        page, _ = await runs.list_newest_first(connection, "first", 2, after=None)
        last = page[-1]
        # A listed run continues, and another begins.
        await runs.put(connection, run("run-3", NOON + timedelta(hours=9)))
        await runs.put(connection, run("run-4", NOON + timedelta(hours=4)))
        rest, _ = await runs.list_newest_first(
            connection, "first", 9, after=(last.start_time.ToDatetime(tzinfo=UTC), last.run_id)
        )
    assert [one.run_id for one in page] == ["run-3", "run-2"]
    assert [one.run_id for one in rest] == ["run-1", "run-0"]


async def test_a_run_keeps_its_start_over_all_its_requests(database: Database) -> None:
    async with database.connection() as connection:
        await pipelines.insert(connection, stored("first"))
        await runs.put(connection, run("one", NOON))
        later = run("one", NOON + timedelta(hours=1), Progress(global_state_count=7))
        later.status = RunStatus.RUN_STATUS_SUCCEEDED
        later.end_time.FromDatetime(NOON + timedelta(hours=2))
        await runs.put(connection, later)
        (found,), _ = await runs.list_newest_first(connection, "first", 9, after=None)
        listed = await pipelines.get(connection, "first")
    later.start_time.FromDatetime(NOON)
    assert found == later
    assert listed is not None
    assert listed.pipeline.progress.global_state_count == 7
