"""Position of a pipeline's inputs, from one engine call to the next."""

from copy import copy

from pipesync.v1.state_pb2 import CheckpointPosition, Eof, LostInputs, Resumption, SyncState
from service_server.store import inbox, inputs, lifecycles
from service_server.store.database import Connection
from service_server.store.inputs import StoredInputs


class CallInputs:
    """The inputs that a destination holds at the beginning and at the end of one engine call.

    Attributes:
        stored: The position as it is stored now.
    """

    def __init__(
        self,
        pipeline_id: str,
        stored: StoredInputs,
        sent: SyncState | None,
        *,
        keeps: bool = True,
    ) -> None:
        """Initialize for a call that is about to be made.

        Args:
            pipeline_id: The pipeline.
            stored: The stored position.
            sent: The state that the engine is sent.
            keeps: Whether the inputs that the call writes can be sent again.
        """
        self.stored = stored
        self._pipeline_id = pipeline_id
        self._sent = _position(sent)
        self._keeps = keeps
        self._is_compared = False
        self._begin = self._end = self._sent
        self._lost: LostInputs | None = None
        self._reports = 0

    @property
    def replayable(self) -> CheckpointPosition | None:
        """The call's ``SyncOptions.replayable_inputs``."""
        return self.stored.replayable

    @property
    def end(self) -> CheckpointPosition | None:
        """The last position that the call reported."""
        return self._end

    @property
    def is_changed(self) -> bool:
        """Whether there is a change to store."""
        return self._lost is not None or self._end != self.stored.position

    def resume(self, resumption: Resumption) -> None:
        """Record the position that the call resumes from."""
        self._reports += 1
        self._is_compared = True
        self._begin = self._end = _position(resumption.state)
        self._lost = resumption.lost_inputs if resumption.HasField("lost_inputs") else None

    def finish(self, eof: Eof) -> None:
        """Record the position at the end of the call."""
        self._reports += 1
        if not eof.HasField("ending_state"):
            return
        self._end = _position(eof.ending_state)
        if not self._is_compared:
            self._is_compared = True
            is_named = eof.HasField("beginning_inputs_position")
            self._begin = eof.beginning_inputs_position if is_named else self._end
            self._lost = eof.lost_inputs if eof.HasField("lost_inputs") else None

    def pending(self) -> "CallInputs":
        """Return a copy to store in a transaction, which may still be rolled back."""
        return copy(self)

    def note_stored(self, pending: "CallInputs") -> None:
        """Record that the transaction of a copy is committed."""
        self.stored = pending.stored
        self._begin, self._sent, self._lost = pending._begin, pending._sent, pending._lost
        # The call may have reported another position meanwhile.
        if self._reports == pending._reports:
            self._end = pending._end

    async def leave_lineage(self, connection: Connection) -> None:
        """Schedule a replay of the events whose position belongs to the lineage that is left.

        Events that were applied while a sync ran without a state began that lineage. The
        destination accounts for them there, and not in the lineage that the sync began.
        """
        self.stored = await inputs.forget(connection, self._pipeline_id)
        await inbox.replay_behind(
            connection,
            self._pipeline_id,
            series=self.stored.series - 1,
            number=0,
            held=CheckpointPosition(),
        )
        await lifecycles.wake(connection, self._pipeline_id)

    async def store(self, connection: Connection) -> bool:
        """Store the change, and schedule a replay of lost events.

        If the change is not stored, the events stay scheduled: a needless replay does no harm.

        Returns:
            Whether the change is stored. It is not stored if, since this call began, another call
            has stored a change or a lost event was pruned. The next call compares again.
        """
        if not self.is_changed:
            return True
        kept_behind = None
        if self._lost is not None and not self._lost.covered_by_reread:
            # The destination is only certain to hold the inputs that it names, and those before
            # the first input that can be sent again.
            known = self.stored.replayable
            kept_behind = known.number if known is not None else 0
            await inbox.replay_behind(
                connection,
                self._pipeline_id,
                series=self.stored.series,
                number=kept_behind,
                held=self._lost.held,
            )
            await lifecycles.wake(connection, self._pipeline_id)
        after = self._after()
        is_moved = await inputs.move(
            connection, self._pipeline_id, self.stored, after, kept_behind=kept_behind
        )
        if is_moved:
            self.stored = StoredInputs(
                series=after.series,
                position=after.position,
                replayable=after.replayable or self.stored.replayable,
            )
        else:
            self._end = self.stored.position
        self._lost = None
        self._begin = self._sent = self._end
        return is_moved

    def _after(self) -> StoredInputs:
        series, replayable = self.stored.series, None
        is_lost = self._lost is not None
        is_reread = self._lost is not None and self._lost.covered_by_reread
        if self._sent != self.stored.position or is_reread:
            # Earlier events belong to the past of another series, or a reread makes up for them.
            series, replayable = series + 1, self._begin
        elif not is_lost and self._begin != self._sent:
            # The destination is ahead: the store may be an older copy that lacks these inputs.
            replayable = self._begin
        if not self._keeps and self._end != self._begin:
            replayable = self._end
        return StoredInputs(series=series, position=self._end, replayable=replayable)


def _position(state: SyncState | None) -> CheckpointPosition | None:
    if state is None or not state.HasField("inputs_position"):
        return None
    position = CheckpointPosition()
    position.CopyFrom(state.inputs_position)
    return position
