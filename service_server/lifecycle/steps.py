"""What a pipeline's step does: each is one call to the engine, bounded in time."""

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
from service_server.dead_letters import DeadLetters
from service_server.engine import FIELDS_OF_A_PIPELINE, Engine
from service_server.errors import LeaseLost, StoreUnavailable
from service_server.inputs import CallInputs
from service_server.leases import Lease
from service_server.lifecycle import actions, happenings, machine
from service_server.lifecycle.memory import Phase, Work
from service_server.lifecycle.situation import Situation
from service_server.metrics import Metrics
from service_server.pipelines import Pipelines
from service_server.recorder import Recorder, failure_of
from service_server.rewinds import log_rewinds
from service_server.store import pipelines as store
from service_server.store.database import Database

# How long a setup may take, in seconds.
_SETUP_TIMEOUT = 120.0
# How long one may take that makes columns for new fields: large tables are written anew.
_RENEWAL_TIMEOUT = 1800.0
# What the engine gets at least beyond a request's own limit before it counts as gone.
_ANSWER_TIMEOUT = timedelta(seconds=3)
# Trying the same again hardly helps.
_BY_CONFIGURATION = (
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a step did.

    Attributes:
        happened: What follows from it; None when there was nothing to do.
        recorder: Has the state and the run to store, when there was one.
        dead_letters: The events that the source gave up, to be stored, where no run was.
        state: To be stored, where no run was; None leaves what is stored.
        inputs: The position of the pipeline's inputs, to be stored with it.
        run_id: Of the run.
        records: How many the destination committed.
        eof: How the sync ended; None when there was none.
    """

    happened: happenings.Happening | None
    recorder: Recorder | None = None
    dead_letters: DeadLetters | None = None
    state: SyncState | None = None
    inputs: CallInputs | None = None
    run_id: str = ""
    records: int = 0
    eof: Eof | None = None


class Steps:
    """Does what the machine decides."""

    def __init__(
        self,
        *,
        pipelines: Pipelines,
        engine: Engine,
        database: Database,
        pace: machine.Pace,
        metrics: Metrics | None = None,
    ) -> None:
        self._metrics = metrics
        self._pipelines = pipelines
        self._engine = engine
        self._database = database
        self._pace = pace

    async def do(self, action: actions.Action, situation: Situation, lease: Lease) -> Outcome:
        """Does it, and says what came of it; work that does not succeed is no exception.

        Raises:
            LeaseLost: somebody else may sync the pipeline by now.
            StoreUnavailable: the database is away.
        """
        if not situation.facts.active:
            return Outcome(happened=None)
        try:
            if situation.engine_error is not None:
                raise situation.engine_error
            match action:
                case actions.SetUp():
                    return await self._set_up(action, situation)
                case actions.Sync():
                    return await self._sync(action, situation, lease)
                case actions.Poll():
                    return await self._poll(action, situation, lease)
                case actions.Rest():
                    return Outcome(happened=None)
        except (LeaseLost, StoreUnavailable):
            raise
        except RpcError as error:
            return _failed(action, situation, error.message, error.code in _BY_CONFIGURATION)
        except _NoAnswer as error:
            return _failed(action, situation, str(error), by_configuration=False)

    async def _set_up(self, setup: actions.SetUp, situation: Situation) -> Outcome:
        await self._end_teardown(situation)
        pipeline_id, etag = situation.stored.pipeline.id, situation.facts.etag
        config = self._pipelines.open_config(situation.stored)
        both = ConnectorSide.CONNECTOR_SIDE_UNSPECIFIED
        seconds = _RENEWAL_TIMEOUT if setup.renews else _SETUP_TIMEOUT
        async with _answering(seconds), aclosing(self._engine.setup(config, both)) as said:
            async for message in said:
                if message.HasField("control"):
                    etag = await self._pipelines.apply_control(pipeline_id, message.control)
        return Outcome(happened=happenings.WasSetUp(etag=etag, renews=setup.renews))

    async def _sync(self, sync: actions.Sync, situation: Situation, lease: Lease) -> Outcome:
        run_id = sync.run_id or uuid.uuid4().hex
        reconcile = sync.reconciles and _compares(run_id, situation)
        options = SyncOptions(
            run_id=run_id,
            reconcile=reconcile,
            reread_outdated=sync.reconciles and not reconcile,
            state=situation.state,
            replayable_inputs=situation.inputs.replayable,
        )
        recorder = Recorder(
            self._database,
            lease,
            situation.state or SyncState(),
            run_id,
            self._metrics,
            inputs=CallInputs(lease.pipeline_id, situation.inputs, situation.state),
        )
        eof = await self._batch(sync, situation, options, lease)
        recorder.take_eof(eof)
        succeeded = eof.status == RunStatus.RUN_STATUS_SUCCEEDED
        synced = happenings.Synced(
            run_id=run_id,
            reconciles=sync.reconciles,
            has_more=eof.has_more,
            finished=not eof.has_more and (succeeded or eof.ending_state.sync_run.finished),
            progressed=_progressed(eof),
            failure="" if eof.has_more else _failure(eof),
            stalled=_is_stalled(eof),
            outdated=bool(eof.outdated_streams),
            renewed=bool(eof.renewed_streams),
            can_reconcile=situation.facts.can_reconcile,
        )
        return Outcome(
            happened=synced,
            recorder=recorder,
            run_id=run_id,
            records=eof.request_progress.derived.total_record_count,
            eof=eof,
        )

    async def _end_teardown(self, situation: Situation) -> None:
        """Has events applied again, whose tables are about to be made."""
        if situation.stored.is_torn_down:
            async with self._database.connection() as connection:
                await store.set_torn_down(
                    connection, situation.stored.pipeline.id, is_torn_down=False
                )

    async def _poll(self, poll: actions.Poll, situation: Situation, lease: Lease) -> Outcome:
        inputs = CallInputs(lease.pipeline_id, situation.inputs, situation.state)
        options = SyncOptions(
            events_only=True, state=situation.state, replayable_inputs=inputs.replayable
        )
        eof = await self._batch(poll, situation, options, lease)
        inputs.finish(eof)
        log_rewinds(lease.pipeline_id, eof)
        happened: happenings.Happening = happenings.Polled(
            has_more=eof.has_more, progressed=_has_checkpoint(eof)
        )
        if eof.status == RunStatus.RUN_STATUS_FAILED and not eof.has_more:
            connection = eof.request_progress.connection_status.status
            happened = happenings.Failed(
                work=Work.POLL,
                reason=_failure(eof),
                needs_run=not _is_stalled(eof) and connection != ConnectionStatus.STATUS_FAILED,
                stalled=_is_stalled(eof),
            )
        is_new = eof.HasField("ending_state") and eof.ending_state != situation.state
        dead_letters = DeadLetters(lease.pipeline_id, self._metrics)
        for letter in eof.dead_letters:
            dead_letters.add(letter)
        return Outcome(
            happened=happened,
            dead_letters=dead_letters,
            state=eof.ending_state if is_new else None,
            inputs=inputs,
            records=eof.request_progress.derived.total_record_count,
            eof=eof,
        )

    async def _batch(
        self,
        action: actions.Sync | actions.Poll,
        situation: Situation,
        options: SyncOptions,
        lease: Lease,
    ) -> Eof:
        config = self._pipelines.open_config(situation.stored)
        limit = machine.time_limit(situation.memory, action, self._pace)
        options.time_limit.FromTimedelta(limit)
        await lease.last(limit + _ANSWER_TIMEOUT)
        return await self._engine.sync_batch(
            config, options, FIELDS_OF_A_PIPELINE, timeout=lease.seconds_to_work()
        )


def _compares(run_id: str, situation: Situation) -> bool:
    """Whether a run that reads everything again also compares: as it began, when it has begun."""
    state = situation.state
    if state is not None and state.sync_run.run_id == run_id:
        return state.sync_run.reconcile
    return situation.facts.can_reconcile


class _NoAnswer(Exception):
    """The engine did not answer in time."""


@asynccontextmanager
async def _answering(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds) as life:
            yield
    except TimeoutError:
        if not life.expired():
            raise
        raise _NoAnswer(f"the engine did not answer in {seconds:.0f} s") from None


def _failed(
    action: actions.Action, situation: Situation, reason: str, by_configuration: bool
) -> Outcome:
    work = Work.SETUP if situation.memory.phase is Phase.SETUP else Work.RUN
    if isinstance(action, actions.SetUp):
        work = Work.SETUP
    elif isinstance(action, actions.Poll):
        work = Work.POLL
    failed = happenings.Failed(
        work=work,
        reason=reason,
        by_configuration=by_configuration,
        needs_run=work is Work.POLL and by_configuration,
        etag=situation.facts.etag,
        renews=isinstance(action, actions.SetUp) and action.renews,
    )
    return Outcome(
        happened=failed, run_id=action.run_id if isinstance(action, actions.Sync) else ""
    )


def _is_stalled(eof: Eof) -> bool:
    """Whether it failed because nothing was committed within the limit, time and again."""
    return bool(eof.limit_message) and not eof.has_more


def _failure(eof: Eof) -> str:
    """Why it failed; a time limit is the service's own."""
    reason = failure_of(eof)
    if _is_stalled(eof):
        return f"{reason}. Longer steps (--step-seconds) may help"
    return reason


def _progressed(eof: Eof) -> bool:
    streams = eof.request_progress.streams.values()
    return _has_checkpoint(eof) or any(stream.status in _FINAL for stream in streams)


def _has_checkpoint(eof: Eof) -> bool:
    """Whether the next request begins further on.

    Records alone do not show it: events that no checkpoint accounts for are applied once more.
    """
    progress = eof.request_progress
    return bool(progress.global_state_count or progress.derived.total_state_count)
