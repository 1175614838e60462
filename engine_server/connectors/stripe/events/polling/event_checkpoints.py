"""Checkpoints of polled events: when a cursor is worth one, and when it cannot be dropped."""

import asyncio
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from engine_server.connectors.protocols import Messages, ReadRequest
from engine_server.connectors.stripe.events.polling.cursor import OVERLAP, EventCursor
from engine_server.connectors.stripe.events.polling.poll_round import PollRound
from engine_server.dead_letters import DeadLetterCount
from pipesync.v1.message_pb2 import Message, StateCheckpoint
from pipesync.v1.state_pb2 import DeadLetter


class EventCheckpoints:
    """The checkpoints of one read.

    Attributes:
        cursor: The latest cursor, which may have no checkpoint yet; None before any.
        committed: A cursor up to which all records are committed, including those of streams
            refused later.
        states_left: The number of checkpoints that the request still accepts; None for no limit.
    """

    def __init__(
        self, request: ReadRequest, cursor: EventCursor | None, streams: AbstractSet[str]
    ) -> None:
        """Start at the cursor of the request.

        Args:
            request: The read.
            cursor: The cursor in its state; None without one.
            streams: The names of the selected streams.
        """
        self.cursor = self.committed = cursor
        self.states_left = request.state_limit
        self._request = request
        self._streams = streams
        # The cursor of the last checkpoint, from which the next request would start.
        self._emitted = cursor
        self._has_uncommitted = False
        # The last checkpoint may still be dropped.
        self._is_unsure = False
        # The streams of events applied since the last checkpoint, and the dead letters since.
        self._applied_streams: set[str] = set()
        self._given_up = DeadLetterCount()

    def observe(self, message: Message) -> None:
        """Observe a message of the read, which counts towards ``state_limit``."""
        if message.HasField("record_batch"):
            self._has_uncommitted = True
        if message.HasField("source_state") and self.states_left is not None:
            self.states_left -= 1

    def counted(self, checkpoint: StateCheckpoint) -> Message:
        """Return the message of a checkpoint, and observe it."""
        message = Message(source_state=checkpoint)
        self.observe(message)
        return message

    def begin(self, cursor: EventCursor) -> Message | None:
        """Start again at a cursor; return its checkpoint unless it is the last one."""
        self.cursor = self.committed = cursor
        return self._checkpoint(cursor) if cursor != self._emitted else None

    def begin_round(self) -> None:
        """Forget the streams of the previous round's events."""
        self._applied_streams.clear()

    def observe_applied(self, streams: Iterable[AbstractSet[str]]) -> None:
        """Observe the streams that each of several events is applied to."""
        self._applied_streams.update(*streams)

    def observe_dead_letter(self, letter: DeadLetter) -> bool:
        """Observe a dead letter; return whether a checkpoint must follow it."""
        self._given_up.add(letter)
        return self._given_up.is_full

    async def account(
        self, poll_round: PollRound, before: int, known_until: int, *, is_last: bool
    ) -> Messages:
        """Yield a checkpoint if it makes progress, once it cannot be dropped any more.

        Args:
            poll_round: The events that were applied.
            before: As in ``PollRound.account``.
            known_until: As in ``PollRound.account``.
            is_last: Whether no checkpoint follows in this request.
        """
        cursor = poll_round.account(before, known_until)
        is_unsure = self._is_unsure or self._is_worth_emitting(cursor)
        if is_last and is_unsure and self._has_uncommitted:
            # A checkpoint that accounts for a stream refused meanwhile is dropped. The last
            # checkpoint therefore waits until the refusals are known.
            passed = asyncio.Event()
            yield self._request.barriers.put(passed.set)
            await passed.wait()
            cursor = poll_round.account(before, known_until)
            self.committed = cursor
            self._has_uncommitted = self._is_unsure = False
        self.cursor = cursor
        if self._is_worth_emitting(cursor):
            self._applied_streams.clear()
            self._given_up.reset()
            yield self._checkpoint(cursor)

    def _is_worth_emitting(self, cursor: EventCursor) -> bool:
        """Return whether continuing from this cursor saves work over the last checkpoint.

        Otherwise a caller that takes one checkpoint at a time would never finish.
        """
        emitted = self._emitted
        return (
            # Events of refused streams must be applied again.
            bool(self._applied_streams - self._request.errored_streams.names)
            or emitted is None
            or (cursor.behind, cursor.followed) != (emitted.behind, emitted.followed)
            or cursor.failing != emitted.failing
            or cursor.since - emitted.since >= OVERLAP
        )

    def _checkpoint(self, cursor: EventCursor) -> Message:
        self._emitted = cursor
        self._is_unsure = self._has_uncommitted
        not_followed = self._streams - cursor.followed
        excluded = not_followed | cursor.behind.keys() | self._request.errored_streams.names
        return self.counted(
            StateCheckpoint(data=cursor.to_json(), excluded_streams=sorted(excluded))
        )
