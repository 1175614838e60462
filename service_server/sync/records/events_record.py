"""Record of a call that applies events: the position of the events, and the state they found."""

from dataclasses import replace

import structlog

from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import RunStatus
from pipesync.v1.state_pb2 import Eof, Resumption, SyncState
from service_server.store import lifecycles
from service_server.store.database import Connection
from service_server.store.held_rejected import held_after, store_held
from service_server.store.inputs import StoredInputs
from service_server.sync.basis import SyncBasis
from service_server.sync.records.inputs import CallInputs
from service_server.sync.records.record import Snapshot
from service_server.sync.records.resumed_state import resumed_state, store_resumed_state

_log = structlog.get_logger(__name__)


class EventsRecord:
    """Record of a call with events, which moves no checkpoint and may run beside a sync.

    Attributes:
        sent: The state that the engine is sent; None if the pipeline has none.
        inputs: The position of the pipeline's inputs.
        eof: The end of the call; None before.
        creates_tables: False: events need the tables that a sync created.
        leads_elsewhere: False: the destination is the pipeline's own.
        stores_dead_letters: Whether events that the source gives up are dead-lettered at once; the
            inbox retries its own.
        stored_inputs: The position of the inputs that the latest transaction stores; None if it
            stores none, because another call has moved it: the next call compares again.
    """

    creates_tables = False
    leads_elsewhere = False

    def __init__(self, basis: SyncBasis, *, is_from_inbox: bool) -> None:
        """Initialize for a call that is about to be made.

        Args:
            basis: The basis of the call.
            is_from_inbox: Whether the inbox holds the events, so that they can be sent again.
        """
        pipeline_id, before = basis.pipeline_id, basis.state
        self.sent = _without_count(before.state)
        self.inputs = CallInputs(pipeline_id, before.inputs, before.state, keeps=is_from_inbox)
        self.eof: Eof | None = None
        self.stores_dead_letters = not is_from_inbox
        self.stored_inputs: StoredInputs | None = before.inputs
        self._pipeline_id = pipeline_id
        self._before = before
        self._held = basis.stored.held_rejected_record_count
        # The report of the state that the call resumed from; None before, and once it is stored.
        self._found: Resumption | Eof | None = None
        self._is_found = False

    @property
    def state(self) -> SyncState | None:
        """The state that a sync would resume from if it began now; None if there is none."""
        return self._resumed(self._found) or self._before.state

    @property
    def has_news(self) -> bool:
        """Whether anything is not stored yet."""
        is_moved = self._is_found and self.inputs.is_changed
        is_resumed = self._resumed(self._found) is not None
        return is_moved or is_resumed or self._counts_held(self.eof)

    def take(self, message: Message) -> bool:
        """Apply a message, and return whether it changed anything."""
        match message.WhichOneof("payload"):
            case "eof":
                self.eof = message.eof
                self.inputs.finish(message.eof)
                if not self._is_found:
                    self._found, self._is_found = message.eof, True
            case "resumption":
                self.inputs.resume(message.resumption)
                self._found, self._is_found = message.resumption, True
            case _:
                return False
        return True

    def fail(self, reason: str) -> None:
        """Record nothing: the call belongs to no run."""

    def end(self) -> None:
        """Record nothing: the account and the destination are the pipeline's own."""

    def eof_for_now(self) -> Eof:
        """Return the eof of a call that is cancelled; only the engine knows its own progress."""
        return Eof(status=RunStatus.RUN_STATUS_STARTED, has_more=True, ending_state=self.state)

    def snapshot(self) -> Snapshot:
        """Return everything that is to be stored now."""
        return Snapshot(
            state=self._resumed(self._found),
            inputs=self.inputs.pending(),
            found=self._found,
            eof=self.eof,
        )

    async def store(self, connection: Connection, snapshot: Snapshot) -> None:
        """Store a snapshot in a transaction, which may still be rolled back."""
        found, inputs, eof = snapshot.found, snapshot.inputs, snapshot.eof
        if found is not None:
            is_stored = await store_resumed_state(
                connection, self._pipeline_id, self._before, found, inputs
            )
        else:
            is_stored = not self._is_found or await inputs.store(connection)
        self.stored_inputs = inputs.stored if is_stored else None
        if not is_stored:
            _log.info("inputs_position_moved", pipeline_id=self._pipeline_id)
        if eof is not None and self._counts_held(eof):
            await store_held(connection, self._pipeline_id, eof)
            # The lifecycle shows the count in the status of a continuous pipeline.
            await lifecycles.wake(connection, self._pipeline_id)

    async def store_status(self, connection: Connection) -> None:
        """Store nothing: only a rewound stream changes the status, together with the state."""

    def note_stored(self, snapshot: Snapshot) -> None:
        """Record that the transaction of a snapshot is committed."""
        self.inputs.note_stored(snapshot.inputs)
        if snapshot.state is not None:
            self._before = replace(self._before, state=snapshot.state)
        if self._found is snapshot.found:
            self._found = None
        if snapshot.eof is not None:
            self._held = held_after(snapshot.eof, self._held)

    def _resumed(self, found: Resumption | Eof | None) -> SyncState | None:
        return resumed_state(self._before, found) if found is not None else None

    def _counts_held(self, eof: Eof | None) -> bool:
        """Return whether the eof changes the number of rejected records."""
        return eof is not None and held_after(eof, self._held) != self._held


def _without_count(state: SyncState | None) -> SyncState | None:
    """Return the state without its count of requests for history that committed nothing.

    A slow event must not continue the count.
    """
    if state is None or not state.sync_run.empty_request_count:
        return state
    sent = SyncState()
    sent.CopyFrom(state)
    sent.sync_run.empty_request_count = 0
    return sent
