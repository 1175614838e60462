"""Tests for deletions concurrent with updates and with each other: one of them holds the mark."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from google.rpc import code_pb2

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import PipelineConfig
from pipesync.v1.message_pb2 import Message
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from service_server.errors import PlanOutdated
from service_server.leases.leases import LeaseKeeper
from service_server.pipelines.deletions import Deletions
from service_server.store import pipelines
from service_server.store.database import Database
from tests.service_server.conftest import connector
from tests.service_server.lifecycle.scripts import set_desired, update
from tests.service_server.scripted_engine import DROPPED, PLANNED, ScriptedEngine

ACTIVE, PAUSED = pb.DESIRED_STATUS_ACTIVE, pb.DESIRED_STATUS_PAUSED
DELETED = pb.DESIRED_STATUS_DELETED


async def delete(client: PipelineClient, etag: str = "") -> None:
    await client.delete_pipeline(pb.DeletePipelineRequest(pipeline_id="first", etag=etag))


async def tear_down(client: PipelineClient, etag: str = "") -> None:
    request = pb.TeardownPipelineRequest(pipeline_id="first", etag=etag)
    [_ async for _ in client.teardown_pipeline(request)]


async def get(client: PipelineClient) -> pb.Pipeline:
    return (await client.get_pipeline(pb.GetPipelineRequest(pipeline_id="first"))).pipeline


def removals(engine: ScriptedEngine) -> list[Any]:
    return [one for one in engine.requests if isinstance(one, engine_pb.PipelineTeardownRequest)]


@dataclass
class Removing:
    """A teardown that runs until the test ends it.

    Attributes:
        entered: Event of its beginning.
        proceed: Event that ends it.
        error: The error that it ends with; None for success.
    """

    entered: asyncio.Event = field(default_factory=asyncio.Event)
    proceed: asyncio.Event = field(default_factory=asyncio.Event)
    error: RpcError | None = None

    async def __call__(self) -> AsyncGenerator[Message, None]:
        self.entered.set()
        await self.proceed.wait()
        if self.error is not None:
            raise self.error
        yield DROPPED


@asynccontextmanager
async def deleting(
    client: PipelineClient, engine: ScriptedEngine
) -> AsyncIterator[tuple[Removing, "asyncio.Task[None]"]]:
    """Run a deletion whose teardown is in progress during the body."""
    engine.teardown = removing = Removing()
    task = asyncio.create_task(delete(client))
    async with asyncio.timeout(5):
        await removing.entered.wait()
    try:
        yield removing, task
    finally:
        removing.proceed.set()
        await asyncio.wait([task])


@pytest.mark.parametrize(
    "wanted",
    [
        pb.Pipeline(id="first", desired_status=ACTIVE),
        pb.Pipeline(id="first", desired_status=PAUSED),
        pb.Pipeline(id="first", sync_policy=pb.SYNC_POLICY_CONTINUOUS),
        pb.Pipeline(id="first", config=PipelineConfig(source=connector(rate=5))),
    ],
    ids=["active", "paused", "policy", "source"],
)
async def test_a_pipeline_is_not_changed_while_it_is_being_deleted(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine, wanted: pb.Pipeline
) -> None:
    names = [descriptor.name for descriptor, _ in wanted.ListFields()]
    paths = ["config.source" if name == "config" else name for name in names if name != "id"]
    async with deleting(client, engine) as (_, deletion):
        with pytest.raises(RpcError, match="is being deleted now, by ") as error:
            await update(client, wanted, *paths)
        assert error.value.code == code_pb2.FAILED_PRECONDITION
        assert error.value.reason == "PIPELINE_BEING_DELETED"
        assert (await get(client)).desired_status == DELETED
        with pytest.raises(RpcError) as error:
            [_ async for _ in client.setup_pipeline(pb.SetupPipelineRequest(pipeline_id="first"))]
        assert error.value.reason == "PIPELINE_BEING_DELETED"
    await deletion
    with pytest.raises(RpcError) as error:
        await get(client)
    assert error.value.reason == "PIPELINE_NOT_FOUND"


@pytest.mark.parametrize("before", [ACTIVE, PAUSED])
@pytest.mark.parametrize("fails", [False, True])
async def test_one_of_concurrent_deletions_removes_the_pipeline(
    client: PipelineClient,
    created: pb.Pipeline,
    engine: ScriptedEngine,
    before: pb.DesiredStatus.ValueType,
    fails: bool,
) -> None:
    await set_desired(client, before)
    etag = (await get(client)).etag
    engine.teardown = removing = Removing()
    if fails:
        removing.error = RpcError("held", code=code_pb2.FAILED_PRECONDITION, reason="HELD")
    deletions = [asyncio.create_task(delete(client)) for _ in range(8)]
    waiting: set[asyncio.Task[None]] = set(deletions)
    async with asyncio.timeout(20):
        while len(waiting) > 1:
            refused, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for one in refused:
                with pytest.raises(RpcError) as error:
                    one.result()
                assert error.value.reason == "SYNC_IN_PROGRESS"
        await removing.entered.wait()
    assert (await get(client)).desired_status == DELETED
    removing.proceed.set()
    [winner] = waiting
    if not fails:
        await winner
        assert not (await client.list_pipelines(pb.ListPipelinesRequest())).pipelines
        return
    with pytest.raises(RpcError, match="held"):
        await winner
    found = await get(client)
    assert (found.desired_status, found.etag) == (before, etag)


async def test_a_deletion_that_failed_leaves_a_pipeline_that_can_be_changed(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    engine.failing_check = "no route to host"
    with pytest.raises(RpcError, match="no route to host; nothing was removed"):
        await delete(client)
    assert (await get(client)) == created
    await set_desired(client, PAUSED)
    await set_desired(client, ACTIVE)
    assert (await get(client)).desired_status == ACTIVE


async def test_an_interrupted_deletion_can_be_undone_or_repeated(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine, database: Database
) -> None:
    async with database.connection() as connection:
        await pipelines.mark_deleted(connection, "first")
    await set_desired(client, ACTIVE)
    assert (await get(client)).desired_status == ACTIVE
    async with database.connection() as connection:
        await pipelines.mark_deleted(connection, "first")
        # The mark of a lease that is not held any more.
        await pipelines.begin_deletion(connection, "first", 1)
    await set_desired(client, PAUSED)
    async with database.connection() as connection:
        await pipelines.mark_deleted(connection, "first")
    engine.failing_check = "no route to host"
    with pytest.raises(RpcError, match="no route to host"):
        await delete(client)
    assert (await get(client)).desired_status == PAUSED
    engine.failing_check = ""
    await delete(client)


async def test_an_update_of_another_field_keeps_the_mark(
    client: PipelineClient, created: pb.Pipeline, database: Database
) -> None:
    async with database.connection() as connection:
        read = await pipelines.get(connection, "first")
        assert read is not None
        # After the update's read of the pipeline.
        await pipelines.mark_deleted(connection, "first")
        etag = await pipelines.update(connection, read)
        assert etag is not None
        assert (await get(client)).desired_status == DELETED
        read.pipeline.etag = etag
        assert await pipelines.update_desired_state(connection, read.pipeline)
    assert (await get(client)).desired_status == DELETED


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Deletions, step by step.

    Attributes:
        deletions: The deletions of two calls.
        leases: The keeper of the process's leases.
        database: The database with the pipeline "first".
    """

    deletions: Deletions
    leases: LeaseKeeper
    database: Database

    async def desired_status(self) -> int:
        async with self.database.connection() as connection:
            found = await pipelines.get(connection, "first")
        assert found is not None
        return found.pipeline.desired_status


@pytest.fixture
def bench(database: Database, created: pb.Pipeline) -> Bench:
    leases = LeaseKeeper(database, holder="bench", duration=timedelta(minutes=1))
    return Bench(deletions=Deletions(database), leases=leases, database=database)


async def test_a_deletion_that_times_out_keeps_the_mark_of_one_under_way(
    bench: Bench, created: pb.Pipeline
) -> None:
    async with AsyncExitStack() as other:

        async def give_up() -> None:
            async with bench.deletions.marked("first"):
                await other.enter_async_context(bench.deletions.marked("first"))
                lease = await other.enter_async_context(bench.leases.hold("first"))
                under_way = bench.deletions.under_way(lease, unless_changed_from=created.etag)
                await other.enter_async_context(under_way)
                raise RuntimeError("gives up")

        with pytest.raises(RuntimeError, match="gives up"):
            await give_up()
        assert await bench.desired_status() == DELETED
        async with bench.database.transaction() as connection:
            locked = await pipelines.lock(connection, "first")
        assert locked is not None
        assert locked.deleter == "bench"


async def test_a_deletion_sets_the_mark_again_that_another_one_cleared(
    bench: Bench, created: pb.Pipeline
) -> None:
    async with AsyncExitStack() as other:

        async def give_up() -> None:
            async with bench.deletions.marked("first"):
                await other.enter_async_context(bench.deletions.marked("first"))
                raise RuntimeError("gives up")

        async def fail() -> None:
            lease = await other.enter_async_context(bench.leases.hold("first"))
            async with bench.deletions.under_way(lease, unless_changed_from=created.etag):
                assert await bench.desired_status() == DELETED
                raise RuntimeError("fails")

        with pytest.raises(RuntimeError, match="gives up"):
            await give_up()
        assert await bench.desired_status() == ACTIVE
        with pytest.raises(RuntimeError, match="fails"):
            await fail()
        assert await bench.desired_status() == ACTIVE


async def test_a_pipeline_that_is_set_active_during_the_wait_of_its_deletion_is_kept(
    bench: Bench, client: PipelineClient, created: pb.Pipeline
) -> None:
    async def wait_and_delete() -> None:
        async with bench.deletions.marked("first"), bench.leases.hold("first") as lease:
            await set_desired(client, ACTIVE)
            async with bench.deletions.under_way(lease, unless_changed_from=created.etag):
                raise AssertionError("it is deleted all the same")

    with pytest.raises(PlanOutdated, match="nothing was removed"):
        await wait_and_delete()
    assert await bench.desired_status() == ACTIVE


REMOVALS = pytest.mark.parametrize("remove", [delete, tear_down])


async def planned_etags(client: PipelineClient, remove: Any) -> list[str]:
    if remove is delete:
        request = pb.DeletePipelineRequest(pipeline_id="first", validate_only=True)
        return [(await client.delete_pipeline(request)).etag]
    teardown = pb.TeardownPipelineRequest(pipeline_id="first", validate_only=True)
    return [answer.etag async for answer in client.teardown_pipeline(teardown)]


@REMOVALS
@pytest.mark.parametrize("plan", [[PLANNED, PLANNED], []], ids=["two", "none"])
async def test_a_plan_has_the_etag_for_its_execution(
    client: PipelineClient,
    created: pb.Pipeline,
    engine: ScriptedEngine,
    remove: Any,
    plan: list[Message],
) -> None:
    engine.plan = plan
    etags = await planned_etags(client, remove)
    assert set(etags) == {created.etag}
    await remove(client, etags[0])
    assert len(removals(engine)) == 1


@REMOVALS
async def test_a_removal_with_an_outdated_plan_removes_nothing(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine, remove: Any
) -> None:
    [etag] = await planned_etags(client, remove)
    config = PipelineConfig(destination=connector(host="there"))
    wanted = pb.Pipeline(id="first", config=config)
    changed = await update(client, wanted, "config.destination")
    with pytest.raises(RpcError, match="was changed meanwhile: nothing was removed") as error:
        await remove(client, etag)
    assert (error.value.code, error.value.reason) == (code_pb2.ABORTED, "PIPELINE_CHANGED")
    assert not removals(engine)
    assert await get(client) == changed


async def test_a_plan_of_an_outdated_etag_is_refused(
    client: PipelineClient, created: pb.Pipeline
) -> None:
    for request in (
        client.delete_pipeline(
            pb.DeletePipelineRequest(pipeline_id="first", validate_only=True, etag="other")
        ),
        anext(
            client.teardown_pipeline(
                pb.TeardownPipelineRequest(pipeline_id="first", validate_only=True, etag="other")
            )
        ),
    ):
        with pytest.raises(RpcError) as error:
            await request
        assert error.value.reason == "PIPELINE_CHANGED"
