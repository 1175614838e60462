"""Steps of a continuous pipeline: each makes one call to the engine, limited in time."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from google.rpc import code_pb2

from pipesync.v1.engine_service_pb2 import ConnectorSide, SyncOptions
from pipesync.v1.progress_pb2 import ConnectionStatus, RunStatus, StreamProgress
from pipesync.v1.state_pb2 import Eof, SyncState
from pipesync_rpc.errors import RpcError
from service_server.engine import Engine
from service_server.errors import LeaseLost, StoreUnavailable
from service_server.leases.lease import Lease
from service_server.lifecycle import actions, machine, outcomes
from service_server.lifecycle.context import StepContext
from service_server.lifecycle.state import Phase, StepKind
from service_server.pipelines.pipelines import Pipelines
from service_server.pipelines.setup import Setup
from service_server.sync.call import SyncCall
from service_server.sync.records.run import failure_of
from service_server.sync.records.run_record import RunRecord
from service_server.sync.session import SyncSession

# Minimum time beyond a request's own limit before the engine counts as lost.
_ANSWER_TIMEOUT = timedelta(seconds=3)
# Errors that a retry is unlikely to end before the configuration changes.
_CONFIGURATION_ERRORS = (
    code_pb2.INVALID_ARGUMENT,
    code_pb2.FAILED_PRECONDITION,
    code_pb2.NOT_FOUND,
    code_pb2.PERMISSION_DENIED,
)
_FINAL = (
    StreamProgress.STATUS_COMPLETED,
    StreamProgress.STATUS_SKIPPED,
    StreamProgress.STATUS_ERRORED,
)


class _EngineTimeout(Exception):
    """The engine did not answer a setup within its time limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """Result of a step: its outcome, and the call whose results are to be stored with it.

    Attributes:
        outcome: The outcome; None if there was nothing to do.
        call: The call of the engine; None if there was none, or it failed.
        sync_state: The state that the call ended with; None without a call.
        eof: The end of the call; None without a call.
        run_id: Id of the run; empty if there was none.
    """

    outcome: outcomes.StepOutcome | None
    call: SyncCall | None = None
    sync_state: SyncState | None = None
    eof: Eof | None = None
    run_id: str = ""

    @property
    def records(self) -> int:
        """Number of records that the destination committed."""
        if self.eof is None:
            return 0
        return self.eof.request_progress.derived.total_record_count


class Steps:
    """Executes the actions that the state machine decides on."""

    def __init__(
        self,
        *,
        pipelines: Pipelines,
        engine: Engine,
        intervals: machine.Intervals,
    ) -> None:
        self._pipelines = pipelines
        self._engine = engine
        self._intervals = intervals

    async def execute(
        self, action: actions.Action, context: StepContext, session: SyncSession
    ) -> StepResult:
        """Execute an action and return its result, also if it fails.

        Raises:
            LeaseLost: Another process may sync the pipeline by now.
            StoreUnavailable: The database is unavailable.
        """
        if not context.snapshot.active:
            return StepResult(outcome=None)
        try:
            if context.engine_error is not None:
                raise context.engine_error
            match action:
                case actions.SetUp():
                    return await self._set_up(action, context, session.lease)
                case actions.Sync():
                    return await self._sync(action, context, session)
                case actions.Poll():
                    return await self._poll(action, context, session)
                case actions.Wait():
                    return StepResult(outcome=None)
        except (LeaseLost, StoreUnavailable):
            raise
        except RpcError as error:
            return _failed(action, context, error.message, error.code in _CONFIGURATION_ERRORS)
        except _EngineTimeout as error:
            return _failed(action, context, str(error), needs_configuration_change=False)

    async def _set_up(
        self, action: actions.SetUp, context: StepContext, lease: Lease
    ) -> StepResult:
        setup = Setup(
            pipelines=self._pipelines,
            engine=self._engine,
            stored=context.stored,
            lease=lease,
        )
        both = ConnectorSide.CONNECTOR_SIDE_UNSPECIFIED
        seconds = machine.setup_time_limit(context.lifecycle, action)
        async with _answer_within(seconds), aclosing(setup.run(both)) as messages:
            async for _ in messages:
                pass
        return StepResult(outcome=outcomes.SetupSucceeded(etag=setup.etag, renews=action.renews))

    async def _sync(
        self, sync: actions.Sync, context: StepContext, session: SyncSession
    ) -> StepResult:
        run_id = sync.run_id or uuid.uuid4().hex
        reconcile = sync.reconciles and _compares(run_id, context)
        options = SyncOptions(
            run_id=run_id,
            reconcile=reconcile,
            reread_outdated=sync.reconciles and not reconcile,
        )
        record = RunRecord(context.basis, context.sync_state, run_id=run_id)
        call = await self._call(sync, context, session, record, options)
        eof = await call.finish()
        succeeded = eof.status == RunStatus.RUN_STATUS_SUCCEEDED
        synced = outcomes.Synced(
            run_id=run_id,
            reconciles=sync.reconciles,
            has_more=eof.has_more,
            finished=not eof.has_more and (succeeded or eof.ending_state.sync_run.finished),
            progressed=_progressed(eof),
            failure="" if eof.has_more else _failure(eof),
            stalled=_is_stalled(eof),
            outdated=bool(eof.outdated_streams),
            renewed=bool(eof.renewed_streams),
            can_reconcile=context.snapshot.can_reconcile,
        )
        return StepResult(
            outcome=synced, call=call, sync_state=record.state, eof=eof, run_id=run_id
        )

    async def _poll(
        self, poll: actions.Poll, context: StepContext, session: SyncSession
    ) -> StepResult:
        record = RunRecord(context.basis, context.sync_state, run_id=None)
        call = await self._call(poll, context, session, record, SyncOptions(events_only=True))
        eof = await call.finish()
        outcome: outcomes.StepOutcome = outcomes.Polled(
            has_more=eof.has_more, progressed=_has_checkpoint(eof)
        )
        if eof.status == RunStatus.RUN_STATUS_FAILED and not eof.has_more:
            connection = eof.request_progress.connection_status.status
            outcome = outcomes.StepFailed(
                kind=StepKind.POLL,
                reason=_failure(eof),
                needs_run=not _is_stalled(eof) and connection != ConnectionStatus.STATUS_FAILED,
                stalled=_is_stalled(eof),
            )
        return StepResult(outcome=outcome, call=call, sync_state=record.state, eof=eof)

    async def _call(
        self,
        action: actions.Sync | actions.Poll,
        context: StepContext,
        session: SyncSession,
        record: RunRecord,
        options: SyncOptions,
    ) -> SyncCall:
        limit = machine.time_limit(context.lifecycle, action, self._intervals)
        options.time_limit.FromTimedelta(limit)
        return await session.call(
            context.basis,
            record,
            options,
            least_time=limit + _ANSWER_TIMEOUT,
        )


def _compares(run_id: str, context: StepContext) -> bool:
    """Return whether a run that reads all records also compares them.

    A run that has begun goes on as it began.
    """
    state = context.sync_state
    if state is not None and state.sync_run.run_id == run_id:
        return state.sync_run.reconcile
    return context.snapshot.can_reconcile


@asynccontextmanager
async def _answer_within(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds) as timeout:
            yield
    except TimeoutError:
        if not timeout.expired():
            raise
        raise _EngineTimeout(f"the engine did not answer in {seconds:.0f} s") from None


def _failed(
    action: actions.Action, context: StepContext, reason: str, needs_configuration_change: bool
) -> StepResult:
    kind = StepKind.SETUP if context.lifecycle.phase is Phase.SETUP else StepKind.RUN
    if isinstance(action, actions.SetUp):
        kind = StepKind.SETUP
    elif isinstance(action, actions.Poll):
        kind = StepKind.POLL
    failed = outcomes.StepFailed(
        kind=kind,
        reason=reason,
        needs_configuration_change=needs_configuration_change,
        needs_run=kind is StepKind.POLL and needs_configuration_change,
        etag=context.snapshot.etag,
        renews=isinstance(action, actions.SetUp) and action.renews,
    )
    return StepResult(
        outcome=failed, run_id=action.run_id if isinstance(action, actions.Sync) else ""
    )


def _is_stalled(eof: Eof) -> bool:
    """Return whether too many requests in a row ended at the time limit without a commit."""
    return bool(eof.limit_message) and not eof.has_more


def _failure(eof: Eof) -> str:
    """Return why the sync failed, and which setting of the service may help."""
    reason = failure_of(eof)
    if _is_stalled(eof):
        return f"{reason}. Longer steps (--step-seconds) may help"
    return reason


def _progressed(eof: Eof) -> bool:
    streams = eof.request_progress.streams.values()
    return _has_checkpoint(eof) or any(stream.status in _FINAL for stream in streams)


def _has_checkpoint(eof: Eof) -> bool:
    """Return whether the next request begins further on.

    Records alone do not prove it: events that no checkpoint covers are applied once more.
    """
    progress = eof.request_progress
    return bool(progress.global_state_count or progress.derived.total_state_count)
