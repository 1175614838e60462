"""Events that a source gave up in a sync, on their way into the inbox."""

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
        """Begins without any.

        Args:
            pipeline_id: Whose inbox they are stored in.
            metrics: Told how many there were.
        """
        self._pipeline_id = pipeline_id
        self._metrics = metrics
        self._unstored: dict[str, DeadLetter] = {}
        self._stored: dict[str, int] = {}

    def add(self, letter: DeadLetter) -> None:
        """Takes one in; one without an event cannot be applied again, and is only logged."""
        known = self._stored.get(letter.event_id)
        # The eof lists again what came as messages.
        if known == letter.attempt_count:
            return
        if not letter.event_id or not letter.event_json:
            _log.error("dead_letter_without_event", event_id=letter.event_id, reason=letter.reason)
            return
        self._unstored[letter.event_id] = letter

    @property
    def are_unstored(self) -> bool:
        """Whether some are to be stored yet."""
        return bool(self._unstored)

    def unstored(self) -> "UnstoredLetters":
        """Those that are to be stored now."""
        return UnstoredLetters(owner=self, letters=tuple(self._unstored.values()))

    def note_stored(self, letters: Sequence[DeadLetter], new: int) -> None:
        """Takes note that letters are stored for good, so many of them for the first time."""
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
            self._metrics.events_set_aside.inc(new)

    async def insert(self, connection: Connection, letters: Sequence[DeadLetter]) -> int:
        """Stores letters in a transaction; how many of them are new to the inbox."""
        return await inbox.store_dead_letters(connection, self._pipeline_id, letters)


@dataclass(slots=True, kw_only=True)
class UnstoredLetters:
    """Some dead letters, for one transaction.

    Attributes:
        owner: Whose letters they are.
        letters: Themselves.
    """

    owner: DeadLetters
    letters: Sequence[DeadLetter]
    _new: int = field(default=0, init=False)

    async def store(self, connection: Connection) -> None:
        """Stores them, in a transaction that may still come to nothing."""
        if self.letters:
            self._new = await self.owner.insert(connection, self.letters)

    def done(self) -> None:
        """Takes note that the transaction is over, and good."""
        if self.letters:
            self.owner.note_stored(self.letters, self._new)
