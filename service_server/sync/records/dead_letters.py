"""Dead letters of a sync: events that its source failed to apply, to be stored in the inbox."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from pipesync.v1.state_pb2 import DeadLetter
from service_server.metrics import Metrics
from service_server.store import inbox
from service_server.store.database import Connection

_log = structlog.get_logger(__name__)


class DeadLetters:
    """The dead letters of one sync; each is stored once."""

    def __init__(self, pipeline_id: str, metrics: Metrics | None = None) -> None:
        """Initialize without letters.

        Args:
            pipeline_id: The pipeline in whose inbox the letters are stored.
            metrics: Metrics that count the letters.
        """
        self._pipeline_id = pipeline_id
        self._metrics = metrics
        self._unstored: dict[str, DeadLetter] = {}
        self._stored: dict[str, int] = {}

    def add(self, letter: DeadLetter) -> None:
        """Add a letter; one without an event cannot be replayed, and is only logged."""
        known = self._stored.get(letter.event_id)
        # The eof repeats the letters that arrived as messages.
        if known == letter.attempt_count:
            return
        if not letter.event_id or not letter.event_json:
            _log.error("dead_letter_without_event", event_id=letter.event_id, reason=letter.reason)
            return
        self._unstored[letter.event_id] = letter

    @property
    def are_unstored(self) -> bool:
        """Whether any letter is not stored yet."""
        return bool(self._unstored)

    def unstored(self) -> "UnstoredLetters":
        """Return the letters that are not stored yet."""
        return UnstoredLetters(owner=self, letters=tuple(self._unstored.values()))

    def note_stored(self, letters: Sequence[DeadLetter], new: int) -> None:
        """Record that letters are committed, ``new`` of them for the first time."""
        for letter in letters:
            self._stored[letter.event_id] = letter.attempt_count
            if self._unstored.get(letter.event_id) is letter:
                del self._unstored[letter.event_id]
            _log.error(
                "webhook_event_set_aside",
                pipeline_id=self._pipeline_id,
                event_id=letter.event_id,
                event_type=letter.event_type,
                attempts=letter.attempt_count,
                error=letter.reason,
            )
        if self._metrics is not None and new:
            self._metrics.events_dead_lettered.inc(new)

    async def insert(self, connection: Connection, letters: Sequence[DeadLetter]) -> int:
        """Store letters in a transaction, and return how many are new to the inbox."""
        return await inbox.store_dead_letters(connection, self._pipeline_id, letters)


@dataclass(slots=True, kw_only=True)
class UnstoredLetters:
    """The dead letters of one transaction.

    Attributes:
        owner: The sync's dead letters, which these are part of.
        letters: The letters to store.
    """

    owner: DeadLetters
    letters: Sequence[DeadLetter]
    _new: int = field(default=0, init=False)

    async def store(self, connection: Connection) -> None:
        """Store the letters in a transaction, which may still be rolled back."""
        if self.letters:
            self._new = await self.owner.insert(connection, self.letters)

    def done(self) -> None:
        """Record that the transaction is committed."""
        if self.letters:
            self.owner.note_stored(self.letters, self._new)
