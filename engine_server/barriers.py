"""Barriers, by which a source learns that its records are committed."""

from collections.abc import Callable

from pipesync.v1.message_pb2 import Barrier, Message


class Barriers:
    """Barriers of one read: yielded after records, and passed once these are committed.

    If the request ends first, a barrier never passes.
    """

    def __init__(self) -> None:
        self._number = 0
        self._waiting: dict[int, Callable[[], None]] = {}

    def put(self, on_passed: Callable[[], None]) -> Message:
        """Return a barrier for the source to yield.

        Args:
            on_passed: Called once, when all records before the barrier are committed. Records of
                refused streams are not committed; these streams are in
                ``ReadRequest.errored_streams`` by then.
        """
        self._number += 1
        self._waiting[self._number] = on_passed
        return Message(barrier=Barrier(number=self._number))

    def passed(self, barrier: Barrier) -> None:
        """Call ``on_passed`` of a barrier that left the destination; ignore an unknown barrier."""
        on_passed = self._waiting.pop(barrier.number, None)
        if on_passed is not None:
            on_passed()
