"""Turns of a pipeline whose streams get new fields: what the engine is asked, and when."""

from datetime import UTC, datetime, timedelta

import pytest
from google.rpc import code_pb2
from msgspec.structs import replace

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.engine_service_pb2 import PipelineSetupRequest, PipelineSyncBatchRequest
from pipesync.v1.state_pb2 import Eof
from pipesync_rpc.errors import RpcError
from service_server.lifecycle.memory import Memory
from service_server.store import lifecycles
from tests.service_server import scripted_engine
from tests.service_server.lifecycle.scripts import Batches, cut, succeeded
from tests.service_server.lifecycle.test_turns import PACE, Bench, bench
from tests.service_server.scripted_engine import ScriptedEngine

__all__ = ["bench"]


def outdated(request: PipelineSyncBatchRequest) -> Eof:
    eof = succeeded(request)
    eof.outdated_streams.append("customers")
    return eof


def renewed(request: PipelineSyncBatchRequest) -> Eof:
    eof = succeeded(request)
    eof.renewed_streams.append("customers")
    return eof


def rereading(request: PipelineSyncBatchRequest) -> Eof:
    eof = cut(request)
    eof.outdated_streams.append("customers")
    eof.ending_state.sync_run.reconcile = request.options.reconcile
    return eof


async def change(bench: Bench, **fields: object) -> Memory:
    """Changes what is remembered of the pipeline; what it is before."""
    async with bench.database.connection() as connection:
        kept = await lifecycles.get(connection, "first")
        assert kept is not None
        memory = Memory.from_json(kept.memory)
        query = "UPDATE pipesync.lifecycles SET memory = $1"
        await connection.execute(query, replace(memory, **fields).to_json())
        await lifecycles.wake(connection, "first")
    return memory


@pytest.mark.parametrize("can_reconcile", [True, False])
async def test_outdated_streams_are_read_again_when_that_is_due_after_another_setup(
    bench: Bench, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, can_reconcile: bool
) -> None:
    spec = type(scripted_engine.SPEC)()
    spec.CopyFrom(scripted_engine.SPEC)
    spec.supports_reconcile = can_reconcile
    monkeypatch.setattr(scripted_engine, "SPEC", spec)
    engine.batch = batches = Batches([outdated, rereading, renewed, succeeded])
    await bench.take_all()
    assert [type(one) for one in engine.requests].count(PipelineSetupRequest) == 1
    memory = await change(bench, reconcile_due=datetime(2020, 1, 1, tzinfo=UTC))
    assert (memory.outdated, memory.columns_due) == (True, True)
    assert memory.reconcile_due is not None
    assert memory.reconcile_due <= datetime.now(UTC) + PACE.reconcile + timedelta(minutes=1)
    await bench.take_all()
    assert [type(one) for one in engine.requests].count(PipelineSetupRequest) == 2
    _, first, second = batches.runs
    for request in (first, second):
        assert request.options.reconcile is can_reconcile
        assert request.options.reread_outdated is not can_reconcile
    assert first.options.run_id == second.options.run_id
    memory = await change(bench)
    assert (memory.outdated, memory.columns_due) == (False, False)
    assert (await bench.shown()).status == pb.PIPELINE_STATUS_READY


async def test_a_setup_that_is_refused_is_shown_and_the_streams_are_read_again_all_the_same(
    bench: Bench, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Batches([outdated, renewed])
    await bench.take_all()
    engine.setup_error = RpcError(
        "the role does not own stripe.customers",
        code=code_pb2.FAILED_PRECONDITION,
        reason="CONNECTOR_FAILED",
    )
    await change(bench, reconcile_due=datetime(2020, 1, 1, tzinfo=UTC))
    await bench.take_all()
    assert len(batches.runs) == 2
    broken = await bench.shown()
    assert broken.status == pb.PIPELINE_STATUS_ERROR
    assert "does not own stripe.customers" in broken.status_message
    engine.setup_error = None
    await change(bench, due={})
    await bench.take_all()
    assert (await bench.shown()).status == pb.PIPELINE_STATUS_READY
