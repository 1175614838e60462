"""Survival of every background loop: it continues after every exception of the database."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
import structlog

from pipesync.v1.message_pb2 import Message, StateCheckpoint
from pipesync.v1.pipeline_service_pb2 import DESIRED_STATUS_ACTIVE, SYNC_POLICY_MANUAL
from service_server import pruning
from service_server.background.fair_shares import FairShares
from service_server.background.heartbeats import Heartbeats, Loop
from service_server.background.loop import Backoff
from service_server.background.watchdog import Watchdog
from service_server.leases.lease import Lease
from service_server.leases.leases import LeaseKeeper
from service_server.lifecycle import scheduler
from service_server.lifecycle.scheduler import Scheduler
from service_server.store import inbox, lifecycles, pipelines, states
from service_server.store.database import Database
from service_server.store.inbox import InsertResult, NewEvent
from service_server.store.lifecycles import Claim
from service_server.store.notifications import Notifications
from service_server.store.states import StoredState
from service_server.sync.basis import SyncBasis
from service_server.sync.records.recorder import Recorder
from service_server.sync.records.run_record import RunRecord
from service_server.sync.records.storing import store_with_retry
from service_server.webhooks import worker
from service_server.webhooks.group_commit import GroupCommit
from service_server.webhooks.worker import InboxWorker
from tests.service_server.faults import FaultyDatabase, all_faults, until
from tests.service_server.store.test_pipelines import stored

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def no_delays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Backoff, "next_delay", lambda _: 0.0)
    monkeypatch.setattr(scheduler, "_FAULT_DELAY", timedelta(0))
    monkeypatch.setattr(worker, "_FIRST_DELAY", 0.0)
    monkeypatch.setattr(worker, "_GATHER", 0.0)
    monkeypatch.setattr(worker, "_REST", 0.0)
    # The formatting of hundreds of tracebacks takes long.
    with structlog.testing.capture_logs():
        yield


@pytest.fixture
def heartbeats() -> Heartbeats:
    return Heartbeats()


@pytest.fixture
async def faulty(database: Database) -> FaultyDatabase:
    """Return a faulty database with the pipeline "first"."""
    async with database.connection() as connection:
        await pipelines.insert(connection, stored("first"))
        await connection.execute(
            "UPDATE pipesync.pipelines SET desired_status = $1, sync_policy = $2",
            DESIRED_STATUS_ACTIVE,
            SYNC_POLICY_MANUAL,
        )
    return FaultyDatabase.of(database)


async def new_event(database: Database, event_id: str) -> NewEvent:
    async with database.connection() as connection:
        found = await pipelines.get(connection, "first")
    assert found is not None
    return NewEvent(
        pipeline_id="first",
        etag=found.pipeline.etag,
        event_id=event_id,
        event_type="customer.updated",
        create_time=datetime(2026, 1, 1, tzinfo=UTC),
        body=b"{}",
    )


async def put_event(database: Database, event_id: str) -> None:
    event = await new_event(database, event_id)
    async with database.connection() as connection:
        await inbox.insert(connection, [event])


class Executor:
    """Executor whose steps raise one fault each; later ones make the pipeline wait."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.faults: list[BaseException] = []
        self.count = 0

    async def run_step(self, claim: Claim) -> None:
        await asyncio.sleep(0)
        if self.faults:
            raise self.faults.pop(0)
        async with self._database.connection() as connection:
            await lifecycles.put(connection, claim, "{}", None)
        self.count += 1


async def scheduled(database: Database) -> None:
    async with database.connection() as connection:
        await lifecycles.start(connection, "first")


def scheduler_of(faulty: FaultyDatabase, executor: Executor, heartbeats: Heartbeats) -> Scheduler:
    return Scheduler(
        database=faulty,
        executor=executor,  # type: ignore[arg-type]  # it has the method that the scheduler calls
        places=FairShares(1),
        claim=HOUR,
        heartbeats=heartbeats,
    )


async def test_scheduler(
    faulty: FaultyDatabase, database: Database, heartbeats: Heartbeats
) -> None:
    executor = Executor(database)
    faulty.faults = all_faults()
    count = len(faulty.faults)
    tested = scheduler_of(faulty, executor, heartbeats)
    async with tested.running(grace=1):
        await until(lambda: heartbeats.failures.get(Loop.SCHEDULER) == count)
        await scheduled(database)
        tested.wake()
        await until(lambda: executor.count == 1)


async def test_steps(faulty: FaultyDatabase, database: Database, heartbeats: Heartbeats) -> None:
    await scheduled(database)
    executor = Executor(database)
    executor.faults = all_faults()
    async with scheduler_of(faulty, executor, heartbeats).running(grace=1):
        await until(lambda: executor.count == 1)
    assert not executor.faults


async def test_postponement(
    faulty: FaultyDatabase, database: Database, heartbeats: Heartbeats
) -> None:
    await scheduled(database)

    class FailsOnce(Executor):
        async def run_step(self, claim: Claim) -> None:
            await super().run_step(claim)
            if self.count == 1:
                # The postponement of the claim, which lasts an hour, meets all these faults.
                faulty.faults = all_faults()
                async with database.connection() as connection:
                    await connection.execute(
                        "UPDATE pipesync.lifecycles SET due_time = now() + interval '1 hour'"
                    )
                raise RuntimeError("injected")

    executor = FailsOnce(database)
    async with scheduler_of(faulty, executor, heartbeats).running(grace=1):
        await until(lambda: executor.count == 2)
    assert heartbeats.failures[Loop.POSTPONEMENT] == len(all_faults())


async def test_a_claimed_step_runs_although_the_next_statement_fails(
    faulty: FaultyDatabase,
    database: Database,
    heartbeats: Heartbeats,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fails(_: object) -> None:
        raise asyncpg.ReadOnlySQLTransactionError("injected")

    monkeypatch.setattr(lifecycles, "time_to_next", fails)
    await scheduled(database)
    executor = Executor(database)
    async with scheduler_of(faulty, executor, heartbeats).running(grace=1):
        await until(lambda: executor.count == 1)


class Applier:
    """Applier that marks pending events once it has raised all faults."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.faults: list[BaseException] = []
        self.applied = 0

    async def apply(self, pipeline_id: str) -> int:
        await asyncio.sleep(0)
        if self.faults:
            raise self.faults.pop(0)
        async with self._database.connection() as connection:
            await connection.execute("UPDATE pipesync.webhook_events SET status = 2")
        self.applied += 1
        return 1


async def test_inbox_worker(
    faulty: FaultyDatabase,
    database: Database,
    heartbeats: Heartbeats,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The pruning loop uses the same database.
    monkeypatch.setattr(pruning, "_EVENTS_INTERVAL", 3600.0)
    applier = Applier(database)
    async with (
        pruning.pruning_events(faulty, HOUR, heartbeats),
        InboxWorker.running(
            faulty,
            applier,  # type: ignore[arg-type]  # it has the method that the worker calls
            grace=1,
            heartbeats=heartbeats,
        ) as inbox_worker,
    ):
        await until(lambda: heartbeats.ages().keys() == {Loop.INBOX_WORKER, Loop.INBOX_PRUNING})
        faulty.faults = all_faults()
        count = len(faulty.faults)
        inbox_worker.wake()
        await until(lambda: not faulty.faults)
        await put_event(database, "evt_1")
        inbox_worker.wake()
        await until(lambda: applier.applied == 1)
        failures = heartbeats.failures
        assert failures.get(Loop.INBOX_WORKER, 0) + failures.get(Loop.INBOX_PRUNING, 0) == count
        applier.faults = all_faults()
        await put_event(database, "evt_2")
        inbox_worker.wake()
        await until(lambda: applier.applied == 2)
        assert not applier.faults


async def events(database: Database) -> int:
    async with database.connection() as connection:
        count: int = await connection.fetchval("SELECT count(*) FROM pipesync.webhook_events")
    return count


async def test_inbox_pruning(
    faulty: FaultyDatabase, database: Database, heartbeats: Heartbeats
) -> None:
    await put_event(database, "evt_old")
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE pipesync.webhook_events SET status = 2, finish_time = now() - interval '1 day'"
        )
    faulty.faults = all_faults()
    async with pruning.pruning_events(faulty, HOUR, heartbeats), asyncio.timeout(60):
        while await events(database):  # noqa: ASYNC110 - Postgres has no event for it
            await asyncio.sleep(0.01)
    assert heartbeats.failures == {Loop.INBOX_PRUNING: len(all_faults())}


async def test_run_pruning(faulty: FaultyDatabase, heartbeats: Heartbeats) -> None:
    faulty.faults = all_faults()
    count = len(faulty.faults)
    async with pruning.pruning_runs(faulty, HOUR, heartbeats):
        await until(lambda: heartbeats.failures.get(Loop.RUN_PRUNING) == count)
        await until(lambda: not heartbeats.stalled_loops())
    assert not faulty.faults


async def test_notifications(
    database: Database, heartbeats: Heartbeats, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults, connect = all_faults(), asyncpg.connect
    heard: list[str | None] = []

    async def faulty_connect(*arguments: object, **options: object) -> object:
        if faults:
            raise faults.pop(0)
        return await connect(*arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(asyncpg, "connect", faulty_connect)
    notifications = Notifications(database, heartbeats=heartbeats)
    notifications.listen("somewhere", heard.append)
    async with notifications.listening():
        # None reports that notifications may have been missed.
        await until(lambda: notifications.is_receiving)
        assert None in heard
        async with database.connection() as connection:
            await connection.execute("SELECT pg_notify('somewhere', 'news')")
        await until(lambda: "news" in heard)
    assert not faults


async def test_a_listener_that_raises_does_not_end_the_notifications(
    database: Database, heartbeats: Heartbeats
) -> None:
    faults, heard = all_faults(), []

    def listener(payload: str | None) -> None:
        if faults:
            raise faults.pop(0)
        heard.append(payload)

    notifications = Notifications(database, heartbeats=heartbeats)
    notifications.listen("somewhere", listener)
    async with notifications.listening():
        await until(lambda: None in heard)


async def test_lease_renewal(faulty: FaultyDatabase, heartbeats: Heartbeats) -> None:
    duration = timedelta(seconds=6)
    keeper = LeaseKeeper(faulty, holder="test", duration=duration, heartbeats=heartbeats)
    async with keeper.hold("first") as lease:
        faulty.faults = all_faults()
        count = len(faulty.faults)
        await until(lambda: heartbeats.failures.get(Loop.LEASE_RENEWAL) == count)
        left = lease.usable_seconds()
        # Only the renewal extends the lease.
        await until(lambda: lease.usable_seconds() > left)


async def test_a_lease_whose_release_failed_is_taken_again_at_once(
    faulty: FaultyDatabase, heartbeats: Heartbeats
) -> None:
    keeper = LeaseKeeper(faulty, holder="test", duration=HOUR, heartbeats=heartbeats)
    for number, fault in enumerate(one for one in all_faults() if isinstance(one, Exception)):
        async with keeper.hold("first") as lease:
            assert lease.pipeline_id == "first"
            faulty.faults = [fault]
        assert not faulty.faults, number


@pytest.fixture
async def lease(faulty: FaultyDatabase) -> AsyncIterator[Lease]:
    async with LeaseKeeper(faulty, holder="test", duration=HOUR).hold("first") as lease:
        yield lease


async def checkpoint(database: Database) -> str | None:
    async with database.connection() as connection:
        state = await states.get(connection, "first")
    return state.source.streams["customers"] if state is not None else None


async def test_state_storing(
    faulty: FaultyDatabase, database: Database, lease: Lease, heartbeats: Heartbeats
) -> None:
    basis = SyncBasis(stored=stored("first"), state=StoredState())
    recorder = Recorder(lease, RunRecord(basis, None, run_id="run"), heartbeats=heartbeats)
    faulty.faults = all_faults()
    count = len(faulty.faults)
    async with recorder.storing():
        recorder.take(Message(source_state=StateCheckpoint(stream="customers", data="1")))
        await until(lambda: heartbeats.failures.get(Loop.STATE_STORING) == count)
        async with asyncio.timeout(60):
            while await checkpoint(database) != "1":  # noqa: ASYNC110 - the same
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("fault", all_faults()[:-2], ids=lambda one: type(one).__name__)
async def test_the_last_store_is_tried_again(fault: BaseException) -> None:
    faults = [fault, fault]

    async def store() -> None:
        if faults:
            raise faults.pop()

    await store_with_retry(store)
    assert not faults


async def test_group_commit(
    faulty: FaultyDatabase, database: Database, heartbeats: Heartbeats
) -> None:
    async with AsyncExitStack() as stack:
        group_commit = await stack.enter_async_context(GroupCommit.open(faulty, heartbeats))
        for fault in all_faults():
            faulty.faults = [fault]
            # The caller gets the error.
            with pytest.raises(Exception, match=r"injected|stopping"):
                await group_commit.put(await new_event(database, "evt_1"))
        assert await group_commit.put(await new_event(database, "evt_1")) is InsertResult.NEW


async def test_watchdog(heartbeats: Heartbeats) -> None:
    faults, refreshed = all_faults(), asyncio.Event()

    async def refresh() -> None:
        if faults:
            raise faults.pop(0)
        refreshed.set()

    async with Watchdog(heartbeats, refresh).watching(), asyncio.timeout(60):
        await refreshed.wait()
