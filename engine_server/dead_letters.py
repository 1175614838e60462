"""How many dead letters one request may list."""

from collections.abc import Iterable, Sequence

from pipesync.v1.state_pb2 import DeadLetter

# An event is 1 MiB at most where it comes by webhook. The list goes into one message with the state
# and the progress, which has to stay below ``pipesync_rpc.limits.MAX_MESSAGE_BYTES``.
MOST_LETTERS = 100
MOST_BYTES = 8 * 1024 * 1024


class DeadLetterCount:
    """Counts dead letters up to the bound."""

    def __init__(self) -> None:
        self._letters = self._bytes = 0

    def add(self, letter: DeadLetter) -> None:
        """Counts one."""
        self._letters += 1
        self._bytes += letter.ByteSize()

    def reset(self) -> None:
        """Begins anew."""
        self._letters = self._bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether no more are to be listed."""
        return self._letters >= MOST_LETTERS or self._bytes >= MOST_BYTES

    @property
    def is_overfull(self) -> bool:
        """Whether twice as many were counted: nothing ended the request in between."""
        return self._letters >= 2 * MOST_LETTERS or self._bytes >= 2 * MOST_BYTES


def listed(letters: Iterable[DeadLetter]) -> Sequence[DeadLetter]:
    """The letters as an eof lists them: each event once, without bodies beyond twice the bound.

    Only pushed events can be so many, of which the caller has the bodies.
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
