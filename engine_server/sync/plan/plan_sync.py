"""Construction of a sync's plan from a validated request."""

import asyncio
from collections.abc import Sequence

from engine_server.connectors.protocols import SelectedStream
from engine_server.errors import Violations
from engine_server.flush_times import FlushTimes
from engine_server.stages.time_limit import TimeLimit
from engine_server.state.state import begin_run, ceiling
from engine_server.state.stream_schemas import StreamSchemas, fingerprint
from engine_server.sync.checks.resolution import (
    ResolvedDestination,
    ResolvedSource,
    can_reconcile,
    require_reconcile,
    source_time,
)
from engine_server.sync.plan.limits import limits
from engine_server.sync.plan.plan import SyncPlan
from pipesync.v1 import engine_service_pb2 as pb
from pipesync.v1.state_pb2 import SyncState

SyncRequest = pb.PipelineReadRequest | pb.PipelineSyncRequest | pb.PipelineSyncBatchRequest


def plan_sync(
    request: SyncRequest,
    source: ResolvedSource,
    destination: ResolvedDestination | None,
    streams: Sequence[SelectedStream],
    *,
    default_state_limit: int | None,
    seconds_to_deadline: float | None,
    flush_times: FlushTimes,
    listens: bool = False,
) -> SyncPlan:
    """Return the plan of a sync, whose limits count from now.

    Args:
        request: Request with validated options.
        source: Source of the records.
        destination: Destination of the records; None to return them to the caller.
        streams: The selected streams.
        default_state_limit: Meaning of a ``state_limit`` of 0; None for no limit.
        seconds_to_deadline: Time left until the call's deadline; None without a deadline.
        flush_times: Recent flushes of the destinations.
        listens: Whether the source may keep listening after the read.

    Raises:
        InvalidRequest: The request asks to reconcile, but continues a run that does not.
        ReconcileNotSupported: The request asks to reconcile, but a connector does not support it.
    """
    now = source_time(source)
    is_beside_run = bool(request.inputs) or request.options.events_only
    state = SyncState()
    state.CopyFrom(
        request.options.state
        if is_beside_run
        else begin_run(request.options, now, can_reconcile=can_reconcile(source, destination))
    )
    if request.options.reconcile and not state.sync_run.reconcile:
        violations = Violations()
        violations.add("options.reconcile", "must be absent: the run of this run_id began without")
        violations.raise_if_any()
    if state.sync_run.reconcile and not is_beside_run:
        require_reconcile(source, destination)
    schemas = None if is_beside_run else stream_schemas(state, streams)
    begins_run = not state.sync_run.HasField("progress")
    if schemas is not None and request.options.reread_outdated and begins_run:
        schemas.forget_outdated()
    spec = destination.connector.spec() if destination is not None else None
    recent_flushes = flush_times.of(request.pipeline.destination)
    bounds = limits(
        request.options,
        soft_limit_fraction=spec.soft_limit_fraction if spec is not None else 0,
        default_state_limit=default_state_limit,
        seconds_to_deadline=seconds_to_deadline,
        flush_seconds=recent_flushes.estimate,
        empty_requests=state.sync_run.empty_request_count,
    )
    return SyncPlan(
        source=source,
        destination=destination,
        streams=streams,
        state=state,
        state_limit=bounds.states,
        soft_limit=TimeLimit(_moment_in(bounds.soft_seconds)),
        hard_limit=_moment_in(bounds.hard_seconds),
        until=ceiling(now) if is_beside_run else state.sync_run.time_ceiling,
        inputs=request.inputs,
        events_only=request.options.events_only,
        listen=listens,
        stop_seconds=bounds.stop_seconds,
        limits_description=bounds.description,
        recent_flushes=recent_flushes,
        schemas=schemas,
        replayable_inputs=(
            request.options.replayable_inputs
            if request.options.HasField("replayable_inputs")
            else None
        ),
    )


def stream_schemas(state: SyncState, streams: Sequence[SelectedStream]) -> StreamSchemas:
    """Return the schema entries of a state, with the current fields of the selected streams."""
    current = {one.name: fingerprint(one.stream, one.selection) for one in streams}
    return StreamSchemas(state, current)


def _moment_in(seconds: float | None) -> float | None:
    return None if seconds is None else asyncio.get_running_loop().time() + seconds
