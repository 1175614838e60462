"""The memory that the unfinished answers of all connections may hold together."""

from typing import Protocol

MIB = 1024 * 1024
# Bytes that any answer may hold.
_FREE_BYTES = MIB
# Bytes beyond those, of all answers together.
_MAX_BYTES = 256 * MIB


class AnswerMemoryExhausted(ConnectionError):
    """Unfinished answers held too much memory, and that of this connection was the largest."""


class Reader(Protocol):
    """A connection that reads an answer."""

    def drop(self, error: ConnectionError) -> None:
        """End the connection, whose statement fails with ``error``."""


class AnswerMemory:
    """The bytes of unfinished answers.

    The largest answer makes way for the others: a server that sends much and falls silent takes no
    room from those that send a page.
    """

    def __init__(self) -> None:
        self._held = dict[Reader, int]()
        self._total = 0

    def hold(self, reader: Reader, held: int) -> None:
        """Set the bytes of a reader's answer, and drop the largest answers beyond the limit."""
        beyond = held - _FREE_BYTES
        if beyond <= 0:
            self.release(reader)
            return
        self._total += beyond - self._held.get(reader, 0)
        self._held[reader] = beyond
        while self._total > _MAX_BYTES:
            largest = max(self._held, key=self._held.__getitem__)
            self.release(largest)
            largest.drop(
                AnswerMemoryExhausted(
                    f"answers of Postgres that are not complete hold more than {_MAX_BYTES // MIB} "
                    "MiB in this process, and this one was the largest"
                )
            )

    def release(self, reader: Reader) -> None:
        """Take note that a reader's answer is complete, or its connection lost."""
        self._total -= self._held.pop(reader, 0)


ANSWER_MEMORY = AnswerMemory()
