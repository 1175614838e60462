"""Tests for batch syncs: their stored state, also after a disconnect or a failure."""

import asyncio
from contextlib import aclosing
from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import code_pb2

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Connector, StreamSelection
from pipesync.v1.progress_pb2 import RunStatus
from pipesync.v1.state_pb2 import Eof
from pipesync_client import PipelineClient
from pipesync_rpc.errors import FieldViolation, RpcError
from pipesync_rpc.reasons import Reason
from service_server.bootstrap import running_service
from service_server.settings.service import ServiceSettings
from service_server.store import leases
from service_server.store.database import Database
from tests.service_server.conftest import SECRET, connector
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.syncing import (
    checkpoint,
    ends,
    runs,
    state,
    stored_state,
    sync,
    sync_batch,
    then_waits,
    until_free,
    until_stored,
)

MASK = "********"


@pytest.fixture(autouse=True)
async def first(created: pb.Pipeline) -> pb.Pipeline:
    return created


async def test_a_batch_resumes_from_the_ending_state_of_the_last_one(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    engine.batch = ends('{"n":  1.0}')
    eof = await sync_batch(client)
    assert eof.ending_state == state('{"n":  1.0}')
    assert not engine.last(engine_pb.PipelineSyncBatchRequest).options.HasField("state")
    await sync_batch(client, state_limit=7, run_id="two", time_limit=Duration(seconds=9))
    options = engine.last(engine_pb.PipelineSyncBatchRequest).options
    assert options.state == state('{"n":  1.0}')
    assert (options.state_limit, options.run_id) == (7, "two")
    assert options.time_limit.ToSeconds() == 9


async def test_a_reset_deletes_the_state_before_the_engine_is_called(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = ends("{}")
    await sync_batch(client)
    engine.error = RpcError("no", code=code_pb2.FAILED_PRECONDITION)
    with pytest.raises(RpcError):
        await sync_batch(client, reset_state=True)
    assert await stored_state(database) is None
    engine.error = None
    await sync_batch(client, reset_state=True)
    assert not engine.last(engine_pb.PipelineSyncBatchRequest).options.HasField("state")
    assert await stored_state(database) == state("{}")


async def test_the_engine_is_told_to_reconcile(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    engine.batch = ends("{}")
    await sync_batch(client, run_id="two", reconcile=True)
    assert engine.last(engine_pb.PipelineSyncBatchRequest).options.reconcile
    await sync_batch(client, run_id="two")
    assert not engine.last(engine_pb.PipelineSyncBatchRequest).options.reconcile
    async for _ in sync(client, reconcile=True):
        pass
    assert engine.last(engine_pb.PipelineSyncRequest).options.reconcile


async def test_a_connector_that_cannot_reconcile_is_reported_without_a_failed_run(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    engine.error = RpcError(
        "the source 'scripted' cannot compare",
        code=code_pb2.FAILED_PRECONDITION,
        reason=Reason.RECONCILE_NOT_SUPPORTED,
    )
    with pytest.raises(RpcError, match="cannot compare") as error:
        await sync_batch(client, run_id="two", reconcile=True)
    assert error.value.reason == Reason.RECONCILE_NOT_SUPPORTED
    assert await runs(client) == []


async def test_overrides_apply_to_this_sync_alone(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = ends("ended")
    overrides = pb.SyncOverrides(
        source=connector(api_key=MASK, rate=5),
        streams=[StreamSelection(name="customers")],
        state=state("given"),
    )
    await sync_batch(client, overrides=overrides)
    overridden = engine.last(engine_pb.PipelineSyncBatchRequest)
    assert overridden.pipeline.source.config["rate"] == 5
    assert overridden.pipeline.source.config["api_key"] == SECRET
    assert [one.name for one in overridden.pipeline.streams] == ["customers"]
    assert overridden.options.state == state("given")
    assert await stored_state(database) == state("ended")
    await sync_batch(client)
    stored = engine.last(engine_pb.PipelineSyncBatchRequest)
    assert "rate" not in stored.pipeline.source.config
    assert not stored.pipeline.streams


async def test_unknown_connectors_of_overrides_are_named_with_an_invalid_id(
    client: PipelineClient,
) -> None:
    overrides = pb.SyncOverrides(
        source=Connector(type="stripes"), destination=Connector(type="postgras")
    )
    request = pb.SyncPipelineBatchRequest(pipeline_id="x!", overrides=overrides)
    with pytest.raises(RpcError) as error:
        await client.sync_pipeline_batch(request)
    assert [one.field for one in error.value.field_violations] == [
        "pipeline_id",
        "overrides.source.type",
        "overrides.destination.type",
    ]
    request.state_limit = -1
    with pytest.raises(RpcError) as error:
        await client.sync_pipeline_batch(request)
    assert error.value.reason == "INVALID_REQUEST"
    assert {one.field for one in error.value.field_violations} == {
        "pipeline_id",
        "state_limit",
        "overrides.source.type",
        "overrides.destination.type",
    }


@pytest.mark.parametrize("pipeline_id", ["first", "x!"])
async def test_every_violation_of_overrides_is_named(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine, pipeline_id: str
) -> None:
    engine.error = RpcError(
        "bad",
        code=code_pb2.INVALID_ARGUMENT,
        reason="INVALID_REQUEST",
        field_violations=[
            FieldViolation("pipeline.destination.config.rate", "must be a number"),
            FieldViolation("pipeline.streams[0].name", "is unknown"),
        ],
    )
    overrides = pb.SyncOverrides(
        source=Connector(type="stripes"),
        destination=connector(api_key="********"),
        streams=[StreamSelection(name="nope")],
    )
    request = pb.SyncPipelineBatchRequest(
        pipeline_id=pipeline_id, overrides=overrides, state_limit=-1
    )
    with pytest.raises(RpcError) as error:
        await client.sync_pipeline_batch(request)
    assert {one.field for one in error.value.field_violations} == {
        *(["pipeline_id"] if pipeline_id == "x!" else []),
        "state_limit",
        "overrides.source.type",
        "overrides.destination.config.rate",
        "overrides.streams[0].name",
    }


@pytest.mark.parametrize("side", ["source", "destination"])
async def test_overrides_keep_no_secret_for_another_place(
    client: PipelineClient, engine: ScriptedEngine, side: str
) -> None:
    moved = connector(api_key=MASK, base_url="http://elsewhere")
    overrides = pb.SyncOverrides(**{side: moved})  # type: ignore[arg-type]  # any side

    async def stream() -> None:
        async for _ in sync(client, overrides=overrides):
            pass

    engine.requests.clear()
    for call in (sync_batch(client, overrides=overrides), stream()):
        with pytest.raises(RpcError) as error:
            await call
        assert error.value.code == code_pb2.INVALID_ARGUMENT
        [violation] = error.value.field_violations
        assert violation.field == f"overrides.{side}.config.api_key"
        assert f"overrides.{side}.config.base_url" in violation.description
    # The other fields are checked, without connections.
    for request in engine.requests:
        assert request.validate_only
        assert getattr(request.pipeline, side).config["api_key"] == MASK


@pytest.mark.parametrize("side", ["source", "destination"])
async def test_a_mask_is_no_part_of_a_secret_in_overrides(
    client: PipelineClient, engine: ScriptedEngine, side: str
) -> None:
    mixed = connector(api_key=f"{MASK},sk_new")
    overrides = pb.SyncOverrides(**{side: mixed})  # type: ignore[arg-type]  # any side
    with pytest.raises(RpcError) as error:
        await sync_batch(client, overrides=overrides)
    assert error.value.code == code_pb2.INVALID_ARGUMENT
    [violation] = error.value.field_violations
    assert violation.field == f"overrides.{side}.config.api_key"
    assert "send the mask alone" in violation.description


async def test_an_invalid_field_is_named_by_its_path_in_the_request(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    engine.error = RpcError(
        "bad",
        code=code_pb2.INVALID_ARGUMENT,
        field_violations=[
            FieldViolation("pipeline.source.config.rate", "is wrong"),
            FieldViolation("pipeline.destination.config.rate", "is wrong"),
        ],
    )
    with pytest.raises(RpcError) as error:
        await sync_batch(client, overrides=pb.SyncOverrides(source=connector()))
    assert [violation.field for violation in error.value.field_violations] == [
        "overrides.source.config.rate",
        "pipeline.config.destination.config.rate",
    ]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"state_limit": -1}, "state_limit"),
        ({"time_limit": Duration()}, "time_limit"),
        ({"time_limit": Duration(seconds=-1)}, "time_limit"),
    ],
)
async def test_an_invalid_limit_is_named(
    client: PipelineClient, fields: dict[str, object], named: str
) -> None:
    with pytest.raises(RpcError) as error:
        await sync_batch(client, **fields)
    assert [violation.field for violation in error.value.field_violations] == [named]


async def test_a_paused_pipeline_is_not_synced(client: PipelineClient) -> None:
    paused = pb.Pipeline(id="first", desired_status=pb.DESIRED_STATUS_PAUSED)
    mask = FieldMask(paths=["desired_status"])
    await client.update_pipeline(pb.UpdatePipelineRequest(pipeline=paused, update_mask=mask))
    with pytest.raises(RpcError) as error:
        await sync_batch(client)
    assert error.value.code == code_pb2.FAILED_PRECONDITION
    assert error.value.reason == "PIPELINE_PAUSED"


async def test_the_callers_deadline_leaves_time_to_answer(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    request = pb.SyncPipelineBatchRequest(pipeline_id="first", time_limit=Duration(seconds=100))
    await client.sync_pipeline_batch(request, timeout=20)
    limit = engine.last(engine_pb.PipelineSyncBatchRequest).options.time_limit
    assert 16 < limit.ToTimedelta().total_seconds() < 18.1


async def test_a_short_deadline_leaves_time_for_connectors_to_stop(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    await client.sync_pipeline_batch(pb.SyncPipelineBatchRequest(pipeline_id="first"), timeout=2.4)
    limit = engine.last(engine_pb.PipelineSyncBatchRequest).options.time_limit
    assert 0 < limit.ToTimedelta().total_seconds() <= 2.43 - 0.75


async def test_a_run_that_ends_at_a_final_limit_has_failed_and_can_resume(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    ended = state("where it was")
    ended.sync_run.run_id = "two"
    reason = "3 requests in a row ended like this: no page arrived"
    engine.batch = ends(
        "",
        status=RunStatus.RUN_STATUS_FAILED,
        ending_state=ended,
        failure_message=reason,
        limit_message="no page arrived",
    )
    answer = await client.sync_pipeline_batch(
        pb.SyncPipelineBatchRequest(
            pipeline_id="first", run_id="two", time_limit=Duration(seconds=1)
        )
    )
    assert not answer.eof.has_more
    assert answer.eof.limit_message == "no page arrived"
    [run] = await runs(client)
    assert (run.status, run.failure_message) == (RunStatus.RUN_STATUS_FAILED, reason)
    await sync_batch(client, run_id="two")
    assert engine.last(engine_pb.PipelineSyncBatchRequest).options.state == ended


async def test_a_second_sync_of_the_same_pipeline_is_aborted(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def batch(_: object) -> Eof:
        started.set()
        await go_on.wait()
        return Eof(status=RunStatus.RUN_STATUS_SUCCEEDED, ending_state=state("{}"))

    engine.batch = batch
    first = asyncio.create_task(sync_batch(client))
    await started.wait()
    with pytest.raises(RpcError) as error:
        await sync_batch(client)
    assert (error.value.code, error.value.reason) == (code_pb2.ABORTED, "SYNC_IN_PROGRESS")
    assert error.value.retry_delay is not None
    go_on.set()
    await first
    await until_free(database)
    await sync_batch(client)


async def test_a_batch_is_stored_when_its_caller_disconnects(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def batch(_: object) -> Eof:
        started.set()
        await go_on.wait()
        return Eof(status=RunStatus.RUN_STATUS_SUCCEEDED, ending_state=state("late"))

    engine.batch = batch
    caller = asyncio.create_task(sync_batch(client))
    await started.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go_on.set()
    await until_stored(database, "late")


async def test_a_service_that_stops_lets_its_batches_end(
    settings: ServiceSettings, engine: ScriptedEngine, database: Database
) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def batch(_: object) -> Eof:
        started.set()
        await go_on.wait()
        return Eof(status=RunStatus.RUN_STATUS_SUCCEEDED, ending_state=state("last"))

    engine.batch = batch
    stopping = asyncio.Event()

    async def serve() -> None:
        async with running_service(settings) as server:
            address.set_result(server.address)
            await stopping.wait()

    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    service = asyncio.create_task(serve())
    async with PipelineClient(await address) as client:
        caller = asyncio.create_task(sync_batch(client))
        await started.wait()
        stopping.set()
        go_on.set()
        assert (await caller).ending_state == state("last")
    await service
    assert await stored_state(database) == state("last")


async def test_a_sync_that_lost_its_lease_stores_nothing(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    async def batch(_: object) -> Eof:
        async with database.connection() as connection:
            await connection.execute(
                "UPDATE pipesync.leases SET token = nextval('pipesync.fencing_tokens')"
            )
        return Eof(status=RunStatus.RUN_STATUS_SUCCEEDED, ending_state=state("stale"))

    engine.batch = batch
    with pytest.raises(RpcError) as error:
        await sync_batch(client)
    assert error.value.reason == "LEASE_LOST"
    assert await stored_state(database) is None
    assert not await runs(client)


async def test_an_unavailable_engine_is_reported_and_the_state_is_kept(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = ends("kept")
    await sync_batch(client)
    engine.error = RpcError("gone", code=code_pb2.UNAVAILABLE, reason="UNAVAILABLE")
    with pytest.raises(RpcError, match=r"engine at 127\.0\.0\.1:\d+ cannot be reached") as error:
        await sync_batch(client)
    assert (error.value.code, error.value.reason) == (code_pb2.UNAVAILABLE, "ENGINE_UNAVAILABLE")
    assert await stored_state(database) == state("kept")
    await until_free(database)


async def test_an_expired_lease_of_a_dead_service_is_taken_over(
    client: PipelineClient, database: Database
) -> None:
    async with database.connection() as connection:
        await leases.acquire(connection, "first", "dead", timedelta(milliseconds=1))
    await sync_batch(client)


async def test_a_sync_keeps_its_lease_while_it_runs(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    """The fixture's lease lasts three seconds."""
    engine.sync, _ = then_waits(checkpoint("one"))
    async with aclosing(sync(client)) as answers:
        await anext(answers)
        await asyncio.sleep(3.5)
        async with database.connection() as connection:
            holder = await leases.get_holder(connection, "first")
        assert holder is not None
        assert holder.time_left > timedelta(0)
