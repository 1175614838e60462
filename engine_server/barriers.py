"""How a source learns that what it sent is committed."""

from collections.abc import Callable

from pipesync.v1.message_pb2 import Barrier, Message


class Barriers:
    """The barriers of one read: put behind records, told of when they have left the destination.

    A barrier that never gets that far, since the request ends before, is never told of.
    """

    def __init__(self) -> None:
        self._number = 0
        self._waiting: dict[int, Callable[[], None]] = {}

    def put(self, on_passed: Callable[[], None]) -> Message:
        """A barrier for the source to yield.

        Args:
            on_passed: Called once, when all records before the barrier are committed, but for those
                of streams that were refused: these are in ``ReadRequest.refused_streams`` by then.
        """
        self._number += 1
        self._waiting[self._number] = on_passed
        return Message(barrier=Barrier(number=self._number))

    def passed(self, barrier: Barrier) -> None:
        """Tells of one that has left the destination; one of somebody else's means nothing."""
        on_passed = self._waiting.pop(barrier.number, None)
        if on_passed is not None:
            on_passed()
