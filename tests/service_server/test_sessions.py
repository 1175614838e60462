"""Tests for the rules that every call of the engine for a sync follows."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import PipelineConfig, StreamSelection
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync.v1.state_pb2 import CheckpointPosition, Eof, SyncState
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from service_server.leases.leases import LeaseKeeper
from service_server.store import inputs, pipelines, states
from service_server.store.database import Connection, Database
from service_server.store.inputs import StoredInputs
from service_server.sync.basis import SyncBasis
from service_server.sync.records.events_record import EventsRecord
from service_server.sync.records.record import Record
from service_server.sync.records.recorder import Recorder
from service_server.sync.records.run_record import RunRecord
from tests.service_server.conftest import connector
from tests.service_server.lifecycle.scripts import (
    Batches,
    Request,
    cut,
    set_desired,
    succeeded,
    update,
)
from tests.service_server.lifecycle.test_executor import Bench, bench
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.syncing import runs, state, stored_state, sync

__all__ = ["bench"]

# Services of earlier releases apply events under this lease, and syncs wait for its end.
TAKE_BRIEF_LEASE = """
INSERT INTO pipesync.leases (pipeline_id, token, holder, acquire_time, expire_time, is_brief)
VALUES ('first', 1, 'older', now(), now() + interval '1 minute', true)
"""
STREAMS = PipelineConfig(streams=[StreamSelection(name="customers")])
HOUR = timedelta(hours=1)


class _Cut(Exception):
    """Error that rolls a transaction back."""


async def execute(database: Database, statement: str) -> None:
    async with database.connection() as connection:
        await connection.execute(statement)


async def simulate(client: PipelineClient) -> None:
    request = pb.SimulateWebhookSyncRequest(pipeline_id="first")
    async for _ in client.simulate_webhook_sync(request):
        pass


async def sync_batch(client: PipelineClient) -> None:
    request = pb.SyncPipelineBatchRequest(pipeline_id="first")
    request.overrides.streams.extend(STREAMS.streams)
    await client.sync_pipeline_batch(request)


async def sync_stream(client: PipelineClient) -> None:
    request = pb.SyncPipelineRequest(pipeline_id="first")
    request.overrides.streams.extend(STREAMS.streams)
    async for _ in client.sync_pipeline(request):
        pass


def syncs(engine: ScriptedEngine) -> list[Any]:
    kinds = engine_pb.PipelineSyncRequest | engine_pb.PipelineSyncBatchRequest
    return [one for one in engine.requests if isinstance(one, kinds)]


@asynccontextmanager
async def waiting(
    call: Any, client: PipelineClient, engine: ScriptedEngine, database: Database
) -> AsyncIterator["asyncio.Task[None]"]:
    """Run a sync that is checked and waits for its lease during the body."""
    await execute(database, TAKE_BRIEF_LEASE)
    engine.requests.clear()
    task = asyncio.create_task(call(client))
    async with asyncio.timeout(10):
        # The check of its overrides.
        while not engine.requests:  # noqa: ASYNC110 - the engine has no event for it
            await asyncio.sleep(0.01)
    yield task
    await execute(database, "DELETE FROM pipesync.leases")
    await asyncio.wait([task])


@pytest.mark.parametrize("call", [sync_batch, sync_stream])
@pytest.mark.parametrize("status", [pb.DESIRED_STATUS_PAUSED, pb.DESIRED_STATUS_DELETED])
async def test_a_sync_refuses_a_pipeline_that_was_stopped_while_it_waited(
    call: Any,
    status: pb.DesiredStatus.ValueType,
    client: PipelineClient,
    created: pb.Pipeline,
    engine: ScriptedEngine,
    database: Database,
) -> None:
    async with waiting(call, client, engine, database) as task:
        if status == pb.DESIRED_STATUS_PAUSED:
            await set_desired(client, status)
        else:
            async with database.connection() as connection:
                await pipelines.mark_deleted(connection, "first")
    with pytest.raises(RpcError) as error:
        await task
    assert error.value.reason in ("PIPELINE_PAUSED", "PIPELINE_BEING_DELETED")
    assert syncs(engine) == []


@pytest.mark.parametrize("call", [sync_batch, sync_stream])
async def test_a_sync_uses_the_configuration_that_was_stored_while_it_waited(
    call: Any,
    client: PipelineClient,
    created: pb.Pipeline,
    engine: ScriptedEngine,
    database: Database,
) -> None:
    async with waiting(call, client, engine, database) as task:
        changed = pb.Pipeline(id="first", config=PipelineConfig(source=connector(rate=7)))
        await update(client, changed, "config.source")
    await task
    [request] = syncs(engine)
    source: Struct = request.pipeline.source.config
    assert source["rate"] == 7
    assert list(request.pipeline.streams) == list(STREAMS.streams)


async def test_a_simulation_stores_the_count_of_rejected_records(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine, database: Database
) -> None:
    async def script(_: object) -> AsyncGenerator[Message, None]:
        yield Message(eof=Eof(status=RUN_STATUS_SUCCEEDED, held_rejected_record_count=3))

    engine.sync = script
    await simulate(client)
    async with database.connection() as connection:
        stored = await pipelines.get(connection, "first")
    assert stored is not None
    assert stored.held_rejected_record_count == 3


async def test_a_simulation_does_not_continue_the_count_of_empty_requests(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine, database: Database
) -> None:
    before = state("1", "run")
    before.sync_run.empty_request_count = 2
    async with database.connection() as connection:
        await states.put(connection, "first", before)
    await simulate(client)
    sent = engine.last(engine_pb.PipelineSyncRequest).options.state
    assert (sent.sync_run.run_id, sent.sync_run.empty_request_count) == ("run", 0)
    assert await stored_state(database) == before


async def test_a_stream_that_ends_without_a_state_stores_its_run_and_not_the_callers_state(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine, database: Database
) -> None:
    async def script(_: object) -> AsyncGenerator[Message, None]:
        yield Message(eof=Eof(status=RUN_STATUS_SUCCEEDED))

    engine.sync = script
    [_ async for _ in sync(client, overrides={"state": state("own")})]
    [run] = await runs(client)
    assert run.status == RUN_STATUS_SUCCEEDED
    assert await stored_state(database) is None


async def test_a_step_that_syncs_ends_the_teardown(bench: Bench, engine: ScriptedEngine) -> None:
    engine.batch = Batches([cut, succeeded])
    await bench.run_step()
    async with bench.database.connection() as connection:
        await pipelines.set_torn_down(connection, "first", is_torn_down=True)
    await bench.run_step()
    assert not (await bench.pipelines.load("first")).is_torn_down


async def test_a_poll_leaves_the_lineage_that_events_began_meanwhile(
    bench: Bench, engine: ScriptedEngine
) -> None:
    engine.batch = Batches([succeeded])
    await bench.run_all_steps()
    await bench.end_delays()
    await bench.wake()

    async def poll(request: Request) -> Eof:
        async with bench.database.connection() as connection:
            events = StoredInputs(position=CheckpointPosition(epoch="e", number=2))
            await states.put(connection, "first", SyncState(destination="of the events"))
            await inputs.move(connection, "first", StoredInputs(), events)
        eof = succeeded(request)
        eof.ending_state.destination = "of the poll"
        return eof

    engine.batch = poll
    await bench.run_step()
    async with bench.database.connection() as connection:
        stored = await states.load(connection, "first")
    assert stored.state is not None
    assert stored.state.destination == "of the poll"
    assert stored.inputs == StoredInputs(series=2)


def _run(basis: SyncBasis) -> Record:
    return RunRecord(basis, None, run_id="run")


def _events(basis: SyncBasis) -> Record:
    return EventsRecord(basis, is_from_inbox=True)


@pytest.mark.parametrize("record_of", [_run, _events])
async def test_results_that_were_rolled_back_are_stored_by_the_next_transaction(
    bench: Bench, record_of: Any
) -> None:
    position = CheckpointPosition(epoch="e", number=2)
    ending = SyncState(destination="d", inputs_position=position)
    eof = Eof(status=RUN_STATUS_SUCCEEDED, ending_state=ending, held_rejected_record_count=3)

    async def fails(_: Connection) -> None:
        raise _Cut

    async with bench.database.connection() as connection:
        before = await states.load(connection, "first")
    basis = SyncBasis(stored=await bench.pipelines.load("first"), state=before)
    async with LeaseKeeper(bench.database, holder="test", duration=HOUR).hold("first") as lease:
        recorder = Recorder(lease, record_of(basis))
        recorder.take(Message(eof=eof))
        with suppress(_Cut):
            await recorder.store(fails)
        assert recorder.has_news
        await recorder.store()
    async with bench.database.connection() as connection:
        stored = await states.load(connection, "first")
    assert stored.state == ending
    assert stored.inputs.position == position
    assert (await bench.pipelines.load("first")).held_rejected_record_count == 3
