"""Record of one engine call: everything that its messages report, and how it is stored."""

from dataclasses import dataclass
from typing import Protocol

from pipesync.v1.message_pb2 import Message
from pipesync.v1.state_pb2 import Eof, Resumption, SyncState
from service_server.store.database import Connection
from service_server.sync.records.inputs import CallInputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Contents of a record at one moment, which one transaction stores.

    Attributes:
        is_of_pipeline: Whether the results are the pipeline's, and not of a place that overrides
            lead to.
        state: The state to store; None if it is unchanged.
        inputs: The position of the inputs, for this transaction only.
        found: The report of the state that a call with events resumed from; None for none.
        eof: The end of the call; None before.
    """

    is_of_pipeline: bool = True
    state: SyncState | None
    inputs: CallInputs
    found: Resumption | Eof | None = None
    eof: Eof | None = None


class Record(Protocol):
    """Record of a call in memory."""

    @property
    def creates_tables(self) -> bool:
        """Whether the call creates missing tables."""

    @property
    def leads_elsewhere(self) -> bool:
        """Whether the call writes to another destination than the pipeline's own."""

    @property
    def stores_dead_letters(self) -> bool:
        """Whether events that the source gives up are dead-lettered at once."""

    @property
    def sent(self) -> SyncState | None:
        """The state that the engine is sent; None if the call starts from nothing."""

    @property
    def inputs(self) -> CallInputs:
        """The position of the pipeline's inputs."""

    @property
    def state(self) -> SyncState | None:
        """The state that a sync would resume from if it began now; None if there is none."""

    @property
    def has_news(self) -> bool:
        """Whether anything is not stored yet."""

    def take(self, message: Message) -> bool:
        """Apply a message, and return whether it changed anything."""

    def fail(self, reason: str) -> None:
        """Record that the engine failed without an eof; earlier messages stay applied."""

    def end(self) -> None:
        """Record that no more messages arrive."""

    def eof_for_now(self) -> Eof:
        """Return the eof of a call that is cancelled; only the engine knows its own progress."""

    def snapshot(self) -> Snapshot:
        """Return everything that is to be stored now."""

    async def store(self, connection: Connection, snapshot: Snapshot) -> None:
        """Store a snapshot in a transaction, which may still be rolled back."""

    async def store_status(self, connection: Connection) -> None:
        """Store the pipeline's status after the call."""

    def note_stored(self, snapshot: Snapshot) -> None:
        """Record that the transaction of a snapshot is committed."""
