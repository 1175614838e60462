"""What is stored of a sync while it runs and when it ends: its state and its run."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from pipesync.v1.message_pb2 import Message, StateCheckpoint
from pipesync.v1.pipeline_service_pb2 import PipelineStatus, Run
from pipesync.v1.progress_pb2 import Progress, RunStatus, StreamProgress
from pipesync.v1.state_pb2 import Eof, Resumption, SyncState
from pipesync_rpc.errors import RpcError
from service_server.background import BackgroundLoop, Backoff
from service_server.dead_letters import DeadLetters
from service_server.errors import LeaseLost, StoreUnavailable
from service_server.heartbeats import Heartbeats, Loop
from service_server.held_rejected import describe_held, store_held
from service_server.inputs import CallInputs
from service_server.leases import Lease
from service_server.metrics import Metrics
from service_server.rewinds import log_rewinds
from service_server.store import pipelines, runs, states
from service_server.store.database import Connection, Database
from service_server.subject import Subject

_log = structlog.get_logger(__name__)

# Stores what belongs to a sync besides its state and its run, in the same transaction.
Beside = Callable[[Connection], Awaitable[None]]

# Checkpoints are stored at least this often, in seconds.
_INTERVAL = 1.0
# Seconds between two signs of life while nothing changes.
_LONGEST_WAIT = 30.0
# How often the last store is tried when it meets a fault that may not pass. The pauses between
# come to half a minute.
_MOST_ATTEMPTS = 15
# More names of streams than that make no line of a log.
_MOST_NAMES = 10

_PIPELINE_STATUS = {
    RunStatus.RUN_STATUS_UNSPECIFIED: PipelineStatus.PIPELINE_STATUS_BACKFILL,
    RunStatus.RUN_STATUS_STARTED: PipelineStatus.PIPELINE_STATUS_BACKFILL,
    RunStatus.RUN_STATUS_SUCCEEDED: PipelineStatus.PIPELINE_STATUS_READY,
    RunStatus.RUN_STATUS_FAILED: PipelineStatus.PIPELINE_STATUS_ERROR,
}


class Recorder:
    """The record of one sync.

    Attributes:
        state: Where a sync that began now would go on.
    """

    def __init__(
        self,
        database: Database,
        lease: Lease,
        state: SyncState,
        run_id: str,
        metrics: Metrics | None = None,
        heartbeats: Heartbeats | None = None,
        *,
        inputs: CallInputs | None = None,
        subject: Subject | None = None,
    ) -> None:
        """Begins with what is stored.

        Args:
            database: Where to store.
            lease: The right to do so.
            state: What the sync starts from.
            run_id: What the run's record is called.
            metrics: Told of events that the source gave up.
            heartbeats: Where the heartbeat of ``storing`` is watched.
            inputs: The position of the pipeline's inputs; None leaves what is stored.
            subject: Whether the sync is of what the stored state is of; None when it is.
        """
        self._database = database
        self._lease = lease
        self._inputs = inputs
        self._subject = subject or Subject()
        self.state = SyncState()
        self.state.CopyFrom(state)
        self._begins_lineage = not state.destination
        self._run = Run(
            run_id=run_id, pipeline_id=lease.pipeline_id, status=RunStatus.RUN_STATUS_STARTED
        )
        self._run.start_time.GetCurrentTime()
        if state.sync_run.run_id == run_id:
            self._run.progress.CopyFrom(state.sync_run.progress)
        # Until the engine has said which run this is, the state's own is left as it is.
        self._run_is_known = False
        # What the sync starts from may be of its caller's making: it is not stored by itself.
        self._state_is_new = False
        self._is_resumed = False
        self._eof: Eof | None = None
        self._storing = BackgroundLoop(
            Loop.STATE_STORING,
            self._store_changes,
            heartbeats or Heartbeats(),
            backoff=Backoff(first=_INTERVAL / 2),
            subject=lease.pipeline_id,
        )
        self._is_changed = False
        self._dead_letters = DeadLetters(lease.pipeline_id, metrics)

    def take(self, message: Message) -> None:
        """Takes in what one message says of the state or the run."""
        match message.WhichOneof("payload"):
            case "source_state":
                self._take_checkpoint(message.source_state)
            case "resumption":
                self._take_resumption(message.resumption)
            case "sync_run":
                self.state.sync_run.CopyFrom(message.sync_run)
                self._run_is_known = True
            case "progress":
                self._take_progress(message.progress)
            case "eof":
                self.take_eof(message.eof)
            case "dead_letter":
                self._dead_letters.add(message.dead_letter)
                self._note_change()
                return
            case _:
                return
        if message.HasField("source_state") and self.state.sync_run.empty_request_count:
            self.state.sync_run.empty_request_count = 0
        self._state_is_new = True
        self._note_change()

    def take_eof(self, eof: Eof) -> None:
        """Takes in how the sync ended."""
        if eof.outdated_streams:
            outdated = eof.outdated_streams
            _log.warning("streams_outdated", count=len(outdated), streams=outdated[:_MOST_NAMES])
        for letter in eof.dead_letters:
            self._dead_letters.add(letter)
        self._subject.settle(eof.account_id)
        if self._inputs is not None:
            self._inputs.finish(eof)
        if not self._is_resumed:
            log_rewinds(self._run.pipeline_id, eof)
        if eof.HasField("ending_state"):
            self.state.CopyFrom(eof.ending_state)
            self._state_is_new = True
        self._eof = eof
        self._run.status = eof.status
        self._run.progress.CopyFrom(eof.run_progress)
        self._run.failure_message = failure_of(eof)
        if eof.status != RunStatus.RUN_STATUS_STARTED:
            self._run.end_time.GetCurrentTime()

    def fail(self, reason: str) -> None:
        """Takes in that the engine broke off without an eof: what passed before stays."""
        self._run.status = RunStatus.RUN_STATUS_FAILED
        self._run.failure_message = reason
        self._run.end_time.GetCurrentTime()

    def eof_for_now(self) -> Message:
        """The end of a sync that is cut where it is; of its request alone no progress is known."""
        eof = Eof(
            status=RunStatus.RUN_STATUS_STARTED,
            has_more=True,
            ending_state=self.state,
            run_progress=self._run.progress,
        )
        message = Message(emitted_by="service", eof=eof)
        message.ts.GetCurrentTime()
        return message

    async def store(self, beside: Beside | None = None) -> None:
        """Stores state and run together, and the status that follows from them.

        Args:
            beside: Stores something else instead of the status.

        Raises:
            LeaseLost: somebody else may sync the pipeline by now; nothing was stored.
            StoreUnavailable: the database is away.
        """
        status = _PIPELINE_STATUS[self._run.status]
        async with self._database.transaction() as connection:
            await self._lease.require(connection)
            # Both as they are now: more may be taken in while the former is written, and a
            # checkpoint is never to be stored without the dead letters before it.
            letters, state = self._dead_letters.unstored(), SyncState()
            state.CopyFrom(self.state)
            await runs.put(connection, self._run)
            if not self._subject.is_stored:
                return
            await letters.store(connection)
            if self._state_is_new:
                await self._store_state(connection, state)
            message = self._run.failure_message
            if self._eof is not None:
                await store_held(connection, self._run.pipeline_id, self._eof)
                message = message or describe_held(self._eof.held_rejected_record_count)
            if beside is not None:
                await beside(connection)
            else:
                await pipelines.set_status_after_sync(
                    connection, self._run.pipeline_id, status, message
                )
        letters.done()
        if self._state_is_new and state.destination:
            self._begins_lineage = False

    async def store_at_last(self, beside: Beside | None = None) -> None:
        """Stores like ``store``, but waits for a database that is away while the lease lasts.

        Raises:
            LeaseLost: somebody else may sync the pipeline by now; nothing was stored.
            Exception: the fault of the last of several attempts.
        """
        await at_last(lambda: self.store(beside))

    @asynccontextmanager
    async def storing(self) -> AsyncIterator[None]:
        """Stores what is taken in during the body, at least once a second and at its end.

        Where nothing was, nothing is stored.
        """
        try:
            async with self._storing.running(first_in=_LONGEST_WAIT):
                yield
        finally:
            self._subject.settle()
            is_failed = self._run.status == RunStatus.RUN_STATUS_FAILED
            if self._state_is_new or is_failed or self._dead_letters.are_unstored:
                await self.store_at_last()

    async def _store_state(self, connection: Connection, state: SyncState) -> None:
        given = (connection, self._run.pipeline_id, state, self._subject.account_id)
        if (
            self._inputs is not None
            and state.destination
            and self._begins_lineage
            and await states.is_of_other_lineage(*given)
        ):
            await self._inputs.leave_lineage(connection)
        await states.put(*given)
        if self._inputs is not None and not await self._inputs.store(connection):
            _log.info("inputs_position_moved", pipeline_id=self._run.pipeline_id)

    def _note_change(self) -> None:
        self._is_changed = True
        self._storing.wake()

    async def _store_changes(self) -> float:
        if self._is_changed:
            self._is_changed = False
            try:
                await self.store()
            except LeaseLost:
                self._lease.give_up()
                self._storing.end()
            except BaseException:
                self._is_changed = True
                raise
            await asyncio.sleep(_INTERVAL)
        return _LONGEST_WAIT

    def _take_checkpoint(self, checkpoint: StateCheckpoint) -> None:
        name = checkpoint.stream
        if not name:
            setattr(self.state.source, "global", checkpoint.data)
        else:
            self.state.source.streams[name] = checkpoint.data
            if checkpoint.stream_schema:
                self.state.stream_schemas[name] = checkpoint.stream_schema
        # A position never stands beside another checkpoint than its own.
        if checkpoint.HasField("position"):
            self.state.positions[name].CopyFrom(checkpoint.position)
        else:
            self.state.positions.pop(name, None)

    def _take_resumption(self, resumption: Resumption) -> None:
        self._is_resumed = True
        self.state.CopyFrom(resumption.state)
        self._run_is_known = True
        self._subject.settle(resumption.account_id)
        if self._inputs is not None:
            self._inputs.resume(resumption)
        log_rewinds(self._run.pipeline_id, resumption)

    def _take_progress(self, progress: Progress) -> None:
        self._run.progress.CopyFrom(progress)
        if self._run_is_known:
            self.state.sync_run.progress.CopyFrom(progress)


async def at_last(store: Callable[[], Awaitable[None]]) -> None:
    """Try ``store`` until the database is available, and several times against any other fault.

    Raises:
        RpcError: other than StoreUnavailable: trying again would not help.
        Exception: the fault of the last attempt.
    """
    backoff, attempts_left = Backoff(first=0.5), _MOST_ATTEMPTS
    while True:
        attempts_left -= 1
        try:
            return await store()
        except StoreUnavailable as error:
            _log.warning("state_not_stored_yet", error=str(error))
        except RpcError:
            raise
        except Exception:
            if attempts_left <= 0:
                raise
            _log.warning("state_not_stored_yet", exc_info=True)
        await asyncio.sleep(backoff.pause())


def failure_of(eof: Eof) -> str:
    """Why a run failed, in one sentence; empty when it did not."""
    if eof.status != RunStatus.RUN_STATUS_FAILED:
        return ""
    errors = [
        f"{name}: {stream.message}"
        for name, stream in sorted(eof.run_progress.streams.items())
        if stream.status == StreamProgress.STATUS_ERRORED
    ]
    return eof.failure_message or eof.run_progress.connection_status.message or "; ".join(errors)
