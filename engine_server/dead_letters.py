"""Limits for the dead letters that one request lists."""

from collections.abc import Iterable, Sequence

from pipesync.v1.state_pb2 import DeadLetter

# The list is sent in one message with state and progress, which must stay below
# ``pipesync_rpc.limits.MAX_MESSAGE_BYTES``. An event from a webhook has at most 1 MiB.
MOST_LETTERS = 100
MOST_BYTES = 8 * 1024 * 1024


class DeadLetterCount:
    """Counter of dead letters and their bytes."""

    def __init__(self) -> None:
        self._letters = self._bytes = 0

    def add(self, letter: DeadLetter) -> None:
        """Count one dead letter."""
        self._letters += 1
        self._bytes += letter.ByteSize()

    def reset(self) -> None:
        """Start again from zero."""
        self._letters = self._bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether a limit is reached."""
        return self._letters >= MOST_LETTERS or self._bytes >= MOST_BYTES

    @property
    def is_overfull(self) -> bool:
        """Whether twice a limit is reached, because nothing ended the request at the limit."""
        return self._letters >= 2 * MOST_LETTERS or self._bytes >= 2 * MOST_BYTES


def listed(letters: Iterable[DeadLetter]) -> Sequence[DeadLetter]:
    """Return the dead letters for an eof: each event once, without bodies beyond twice the limits.

    Only pushed events can exceed that, and their caller has the bodies.
    """
    latest = {letter.event_id: letter for letter in letters}
    count = DeadLetterCount()
    found = []
    for letter in latest.values():
        if count.is_overfull:
            bare = DeadLetter()
            bare.CopyFrom(letter)
            bare.ClearField("event_json")
            letter = bare
        count.add(letter)
        found.append(letter)
    return found
