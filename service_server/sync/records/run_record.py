"""Record of a call that reads history or polls events: its state, and its run."""

import structlog

from pipesync.v1.message_pb2 import Message, StateCheckpoint
from pipesync.v1.progress_pb2 import Progress, RunStatus
from pipesync.v1.state_pb2 import Eof, Resumption, SyncState
from service_server.store import states
from service_server.store.database import Connection
from service_server.store.held_rejected import store_held
from service_server.sync.basis import SyncBasis
from service_server.sync.records.inputs import CallInputs
from service_server.sync.records.record import Snapshot
from service_server.sync.records.run import RecordedRun
from service_server.sync.records.subject import Subject

_log = structlog.get_logger(__name__)


class RunRecord:
    """Record of a call that continues from the pipeline's state and moves it on.

    Attributes:
        sent: The state that the engine is sent; None if the call starts from nothing.
        inputs: The position of the pipeline's inputs.
        state: The state that a sync would resume from if it began now.
        eof: The end of the call; None before.
        creates_tables: Whether the call creates missing tables, as every sync does.
        leads_elsewhere: Whether the call writes to another destination than the pipeline's own.
        stores_dead_letters: True: the source has tried each event several times.
    """

    stores_dead_letters = True

    def __init__(
        self,
        basis: SyncBasis,
        sent: SyncState | None,
        *,
        run_id: str | None,
        subject: Subject | None = None,
    ) -> None:
        """Initialize for a call that is about to be made.

        Args:
            basis: The basis of the call.
            sent: The state that the engine is sent; None if the call starts from nothing.
            run_id: The id of the run; None for a poll, which belongs to none.
            subject: The account and destination of the sync; None if they are the pipeline's own.
        """
        self.sent = sent
        self.inputs = CallInputs(basis.pipeline_id, basis.state.inputs, sent)
        self.state = SyncState()
        self.eof: Eof | None = None
        self.creates_tables = run_id is not None
        self.leads_elsewhere = subject is not None and subject.leads_elsewhere
        self._pipeline_id = basis.pipeline_id
        self._subject = subject or Subject()
        if sent is not None:
            self.state.CopyFrom(sent)
        self._begins_lineage = not self.state.destination
        self._run: RecordedRun | None = None
        if run_id is not None:
            self._run = RecordedRun(basis.pipeline_id, run_id, self.state)
        # Until the engine has reported the run, the run in the state is left as it is.
        self._run_is_known = False
        # The initial state may be the caller's own, so it is not stored before the first change.
        self._state_is_new = False

    @property
    def has_news(self) -> bool:
        """Whether anything is not stored yet."""
        is_failed = self._run is not None and self._run.is_failed
        return self._state_is_new or is_failed or self.eof is not None

    def fail(self, reason: str) -> None:
        """Record that the engine failed without an eof; earlier messages stay applied."""
        if self._run is not None:
            self._run.fail(reason)

    def take(self, message: Message) -> bool:
        """Apply a message, and return whether it changed anything."""
        match message.WhichOneof("payload"):
            case "eof":
                self._take_eof(message.eof)
                return True
            case "resumption":
                self._take_resumption(message.resumption)
            case "source_state":
                self._take_checkpoint(message.source_state)
            case "sync_run":
                self.state.sync_run.CopyFrom(message.sync_run)
                self._run_is_known = True
            case "progress":
                self._take_progress(message.progress)
            case _:
                return False
        self._state_is_new = True
        return True

    def end(self) -> None:
        """Record that no more messages arrive."""
        self._subject.settle()

    def eof_for_now(self) -> Eof:
        """Return the eof of a call that is cancelled; only the engine knows its own progress."""
        return Eof(
            status=RunStatus.RUN_STATUS_STARTED,
            has_more=True,
            ending_state=self.state,
            run_progress=self._run.progress if self._run is not None else None,
        )

    def snapshot(self) -> Snapshot:
        """Return everything that is to be stored now."""
        state = None
        if self._state_is_new:
            state = SyncState()
            state.CopyFrom(self.state)
        return Snapshot(
            is_of_pipeline=self._subject.is_stored,
            state=state,
            inputs=self.inputs.pending(),
            eof=self.eof,
        )

    async def store(self, connection: Connection, snapshot: Snapshot) -> None:
        """Store a snapshot in a transaction, which may still be rolled back."""
        if self._run is not None:
            await self._run.store(connection)
        if not snapshot.is_of_pipeline:
            return
        state, inputs = snapshot.state, snapshot.inputs
        if state is not None:
            given = (connection, self._pipeline_id, state, self._subject.account_id)
            begins_lineage = self._begins_lineage and state.destination
            if begins_lineage and await states.is_of_other_lineage(*given):
                await inputs.leave_lineage(connection)
            await states.put(*given)
            if not await inputs.store(connection):
                _log.info("inputs_position_moved", pipeline_id=self._pipeline_id)
        if snapshot.eof is not None:
            await store_held(connection, self._pipeline_id, snapshot.eof)

    async def store_status(self, connection: Connection) -> None:
        """Store the pipeline's status after the call."""
        if self._run is not None:
            await self._run.store_status(connection, self.eof)

    def note_stored(self, snapshot: Snapshot) -> None:
        """Record that the transaction of a snapshot is committed."""
        if not snapshot.is_of_pipeline:
            return
        self.inputs.note_stored(snapshot.inputs)
        if snapshot.state is not None and snapshot.state.destination:
            self._begins_lineage = False

    def _take_checkpoint(self, checkpoint: StateCheckpoint) -> None:
        name, state = checkpoint.stream, self.state
        if not name:
            state.source.shared = checkpoint.data
        else:
            state.source.streams[name] = checkpoint.data
            if checkpoint.stream_schema:
                state.stream_schemas[name] = checkpoint.stream_schema
        # A position is only valid with its own checkpoint.
        if checkpoint.HasField("position"):
            state.positions[name].CopyFrom(checkpoint.position)
        else:
            state.positions.pop(name, None)
        if state.sync_run.empty_request_count:
            state.sync_run.empty_request_count = 0

    def _take_progress(self, progress: Progress) -> None:
        if self._run is not None:
            self._run.take_progress(progress)
        if self._run_is_known:
            self.state.sync_run.progress.CopyFrom(progress)

    def _take_resumption(self, resumption: Resumption) -> None:
        self.state.CopyFrom(resumption.state)
        self._run_is_known = True
        self._subject.settle(resumption.account_id)
        self.inputs.resume(resumption)

    def _take_eof(self, eof: Eof) -> None:
        self.eof = eof
        self._subject.settle(eof.account_id)
        self.inputs.finish(eof)
        if eof.HasField("ending_state"):
            # A poll that finds no events changes nothing.
            is_changed = eof.HasField("lost_inputs") or eof.ending_state != self.state
            self._state_is_new |= is_changed or self._run is not None
            self.state.CopyFrom(eof.ending_state)
        if self._run is not None:
            self._run.finish(eof)
