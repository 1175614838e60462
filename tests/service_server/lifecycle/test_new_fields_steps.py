"""Requests to the engine for a pipeline whose streams gain fields."""

from datetime import UTC, datetime, timedelta

import pytest
from google.rpc import code_pb2
from msgspec.structs import replace

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.engine_service_pb2 import PipelineSetupRequest, PipelineSyncBatchRequest
from pipesync.v1.state_pb2 import Eof
from pipesync_rpc.errors import RpcError
from service_server.lifecycle.state import LifecycleState
from service_server.store import lifecycles
from tests.service_server import scripted_engine
from tests.service_server.lifecycle.scripts import Batches, cut, succeeded
from tests.service_server.lifecycle.test_executor import INTERVALS, Bench, bench
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


async def change(bench: Bench, **fields: object) -> LifecycleState:
    """Change the stored lifecycle state, and return the one before."""
    async with bench.database.connection() as connection:
        kept = await lifecycles.get(connection, "first")
        assert kept is not None
        state = LifecycleState.from_json(kept.state_json)
        query = "UPDATE pipesync.lifecycles SET memory = $1"
        await connection.execute(query, replace(state, **fields).to_json())
        await lifecycles.wake(connection, "first")
    return state


@pytest.mark.parametrize("can_reconcile", [True, False])
async def test_outdated_streams_are_read_again_when_due_after_another_setup(
    bench: Bench, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, can_reconcile: bool
) -> None:
    spec = type(scripted_engine.SPEC)()
    spec.CopyFrom(scripted_engine.SPEC)
    spec.supports_reconcile = can_reconcile
    monkeypatch.setattr(scripted_engine, "SPEC", spec)
    engine.batch = batches = Batches([outdated, rereading, renewed, succeeded])
    await bench.run_all_steps()
    assert [type(one) for one in engine.requests].count(PipelineSetupRequest) == 1
    state = await change(bench, reconcile_due=datetime(2020, 1, 1, tzinfo=UTC))
    assert (state.outdated, state.columns_due) == (True, True)
    assert state.reconcile_due is not None
    assert state.reconcile_due <= datetime.now(UTC) + INTERVALS.reconcile + timedelta(minutes=1)
    await bench.run_all_steps()
    assert [type(one) for one in engine.requests].count(PipelineSetupRequest) == 2
    _, first, second = batches.runs
    for request in (first, second):
        assert request.options.reconcile is can_reconcile
        assert request.options.reread_outdated is not can_reconcile
    assert first.options.run_id == second.options.run_id
    state = await change(bench)
    assert (state.outdated, state.columns_due) == (False, False)
    assert (await bench.shown()).status == pb.PIPELINE_STATUS_READY


async def test_a_refused_setup_is_reported_but_the_streams_are_still_read_again(
    bench: Bench, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Batches([outdated, renewed])
    await bench.run_all_steps()
    engine.setup_error = RpcError(
        "the role does not own stripe.customers",
        code=code_pb2.FAILED_PRECONDITION,
        reason="CONNECTOR_FAILED",
    )
    await change(bench, reconcile_due=datetime(2020, 1, 1, tzinfo=UTC))
    await bench.run_all_steps()
    assert len(batches.runs) == 2
    broken = await bench.shown()
    assert broken.status == pb.PIPELINE_STATUS_ERROR
    assert "does not own stripe.customers" in broken.status_message
    engine.setup_error = None
    await change(bench, due={})
    await bench.run_all_steps()
    assert (await bench.shown()).status == pb.PIPELINE_STATUS_READY
