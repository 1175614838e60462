"""Every way in which a sync from Stripe to Postgres is cut short."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from pipesync.v1.progress_pb2 import RUN_STATUS_STARTED, RUN_STATUS_SUCCEEDED, StreamProgress
from pipesync.v1.state_pb2 import Eof, SyncState
from pipesync_client import EngineClient
from tests.end_to_end.held_requests import HeldRequests, after
from tests.end_to_end.stripe_pipeline import (
    RPCS,
    Rpc,
    StripePipeline,
    seconds,
    selections,
    served_engine,
)
from tests.end_to_end.tables import assert_tables_equal
from tests.engine_server.connectors.postgres.sessions import until, until_blocked
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

PLAN = SeedPlan(counts={"customers": 1500, "products": 60})
CUSTOMERS = "/v1/customers"
# The number of pages that are read before a sync hangs.
PAGES = 5
# The most seconds in which the engine promises to end a cancelled request.
CANCEL_SECONDS = 1.0

# True when the engine has no session with the database any more.
NO_SESSIONS = (
    "SELECT count(*) = 0 FROM pg_stat_activity "
    "WHERE datname = current_database() AND application_name = 'pipesync'"
)

BOTH_RPCS = pytest.mark.parametrize("rpc", RPCS)


@pytest.fixture
async def pipeline(database_url: str) -> AsyncIterator[StripePipeline]:
    async with StripeSimulator(PLAN) as simulator:
        yield StripePipeline(
            simulator=simulator,
            database_url=database_url,
            streams=selections(*PLAN.counts),
            destination={"batch_size": 200},
        )


@pytest.fixture
async def client() -> AsyncIterator[EngineClient]:
    async with served_engine() as engine:
        yield engine


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


def hang_in_mid_stream(pipeline: StripePipeline) -> HeldRequests:
    """Answer a few pages of customers, and no more."""
    held = HeldRequests()
    pipeline.simulator.faults.add(after(PAGES, held), path=CUSTOMERS, times=None)
    return held


async def begin_and_lock(
    pipeline: StripePipeline, client: EngineClient, database: asyncpg.Connection
) -> SyncState:
    """Begin a run, lock its tables against writers, and return its state."""
    eof = await pipeline.sync(client, run_id="r1", state_limit=2)
    transaction = database.transaction()
    await transaction.start()
    await database.execute("LOCK TABLE stripe.customers, stripe.products IN EXCLUSIVE MODE")
    return eof.ending_state


async def assert_agrees_with_table(pipeline: StripePipeline, eof: Eof) -> None:
    """Assert that the rows hold all that the state accounts for and progress counts."""
    for stream in PLAN.counts:
        arrived = await pipeline.ids(stream)
        assert pipeline.accounted_ids(eof.ending_state, stream) <= arrived
        assert eof.run_progress.streams[stream].record_count <= len(arrived)


async def assert_completes(pipeline: StripePipeline, client: EngineClient, eof: Eof) -> None:
    """Assert that the run continues from where it was cut, to the last row."""
    run_id = eof.ending_state.sync_run.run_id
    ends = await pipeline.sync_to_the_end(client, state=eof.ending_state, run_id=run_id)
    assert ends[-1].status == RUN_STATUS_SUCCEEDED, ends[-1].failure_message
    await assert_tables_equal(pipeline.simulator, pipeline.database_url, PLAN.counts)
    assert ends[-1].run_progress.derived.total_record_count >= sum(PLAN.counts.values())


def assert_cut(eof: Eof) -> None:
    """Assert that the request ended without failure, and has more to read."""
    assert eof.has_more
    assert eof.status == RUN_STATUS_STARTED
    assert not eof.failure_message


@BOTH_RPCS
async def test_a_page_that_hangs_does_not_delay_the_soft_limit(
    pipeline: StripePipeline, client: EngineClient, rpc: Rpc
) -> None:
    held = hang_in_mid_stream(pipeline)
    began = time.monotonic()
    eof = await pipeline.sync(client, rpc, soft_time_limit=seconds(1), time_limit=seconds(10))
    assert time.monotonic() - began < 3
    assert_cut(eof)
    # All rows that were read are committed, and all committed rows are accounted for.
    arrived = await pipeline.ids("customers")
    assert eof.request_progress.streams["customers"].state_count == PAGES
    assert pipeline.accounted_ids(eof.ending_state, "customers") == arrived
    assert eof.run_progress.streams["customers"].record_count == len(arrived)
    assert eof.run_progress.streams["products"].status == StreamProgress.STATUS_COMPLETED
    await asyncio.wait_for(held.none.wait(), CANCEL_SECONDS)
    pipeline.simulator.faults.clear()
    await assert_completes(pipeline, client, eof)


@BOTH_RPCS
async def test_a_postgres_that_hangs_ends_with_the_hard_limit(
    pipeline: StripePipeline, client: EngineClient, database: asyncpg.Connection, rpc: Rpc
) -> None:
    state = await begin_and_lock(pipeline, client, database)
    began = time.monotonic()
    eof = await pipeline.sync(client, rpc, state=state, run_id="r1", time_limit=seconds(1))
    assert time.monotonic() - began < 2.5
    assert_cut(eof)
    # Nothing could be committed, so no more objects are accounted for; an empty part may be.
    before = pipeline.accounted_ids(state, "customers")
    assert pipeline.accounted_ids(eof.ending_state, "customers") == before
    assert eof.request_progress.derived.total_record_count == 0
    await database.execute("ROLLBACK")
    await assert_agrees_with_table(pipeline, eof)
    await assert_completes(pipeline, client, eof)


@BOTH_RPCS
@pytest.mark.parametrize("hangs", ["Stripe", "Postgres"])
async def test_a_deadline_is_answered_before_it_passes(
    pipeline: StripePipeline,
    client: EngineClient,
    database: asyncpg.Connection,
    rpc: Rpc,
    hangs: str,
) -> None:
    state = SyncState()
    if hangs == "Stripe":
        hang_in_mid_stream(pipeline)
    else:
        state = await begin_and_lock(pipeline, client, database)
    eof = await pipeline.sync(client, rpc, timeout=5, state=state, run_id="r1")
    assert_cut(eof)
    if hangs == "Stripe":
        assert eof.request_progress.streams["customers"].state_count == PAGES
    await assert_agrees_with_table(pipeline, eof)


def open_sockets() -> set[str]:
    """Return the sockets of this process, the simulator's and the engine's."""
    found = set()
    for entry in list(Path("/proc/self/fd").iterdir()):
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            # The descriptor of the listing itself is closed by now.
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def tasks_of_calls() -> set[asyncio.Task[Any]]:
    """Return all tasks but those in which gRPC waits for the next call."""
    return {
        task
        for task in asyncio.all_tasks()
        if getattr(task.get_coro(), "__name__", "") != "_request_registered_call"
    }


async def until_nothing_is_left(tasks: set[asyncio.Task[Any]], sockets: set[str]) -> None:
    """Wait until no tasks and sockets exist but these."""
    while tasks_of_calls() - tasks or open_sockets() - sockets:  # noqa: ASYNC110 - the end of a socket is no event
        await asyncio.sleep(0.01)


@BOTH_RPCS
@pytest.mark.parametrize("hangs", ["Stripe", "Postgres"])
async def test_a_cancelled_sync_leaves_nothing_within_a_second(
    pipeline: StripePipeline,
    client: EngineClient,
    database: asyncpg.Connection,
    rpc: Rpc,
    hangs: str,
) -> None:
    # Tasks and sockets that stay open between requests are open after the first.
    state = await begin_and_lock(pipeline, client, database)
    if hangs == "Stripe":
        await database.execute("ROLLBACK")
        pipeline.simulator.requests.clear()
    await until(database, NO_SESSIONS)
    tasks, sockets = tasks_of_calls(), open_sockets()
    held = hang_in_mid_stream(pipeline)
    call = asyncio.create_task(pipeline.sync(client, rpc, state=state, run_id="r1"))
    await held.begun.wait()
    if hangs == "Postgres":
        await until_blocked(database)

    call.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await call
    async with asyncio.timeout(CANCEL_SECONDS):
        await held.none.wait()
        await until(database, NO_SESSIONS)
        await until_nothing_is_left(tasks, sockets)
    assert time.monotonic() - began < CANCEL_SECONDS
