"""The position of a pipeline's inputs, from one call to the engine to the next."""

from pipesync.v1.state_pb2 import CheckpointPosition, Eof, LostInputs, Resumption, SyncState
from service_server.store import inbox, inputs, lifecycles
from service_server.store.database import Connection
from service_server.store.inputs import StoredInputs


class CallInputs:
    """The inputs that a destination holds as one call to the engine begins and ends.

    Attributes:
        stored: As it is stored by now.
    """

    def __init__(
        self,
        pipeline_id: str,
        stored: StoredInputs,
        sent: SyncState | None,
        *,
        keeps: bool = True,
    ) -> None:
        """Begin with a call that is about to be made.

        Args:
            pipeline_id: Of the pipeline.
            stored: As it is stored.
            sent: The state that the engine is given.
            keeps: Whether the inputs that the call writes can be sent again.
        """
        self.stored = stored
        self._pipeline_id = pipeline_id
        self._sent = _position(sent)
        self._keeps = keeps
        self._is_compared = False
        self._begin = self._end = self._sent
        self._lost: LostInputs | None = None

    @property
    def replayable(self) -> CheckpointPosition | None:
        """The engine's ``SyncOptions.replayable_inputs``."""
        return self.stored.replayable

    @property
    def end(self) -> CheckpointPosition | None:
        """The last position that the call reported."""
        return self._end

    @property
    def is_changed(self) -> bool:
        """Whether there is anything to store."""
        return self._lost is not None or self._end != self.stored.position

    def resume(self, resumption: Resumption) -> None:
        """Take in where the call goes on from."""
        self._is_compared = True
        self._begin = self._end = _position(resumption.state)
        self._lost = resumption.lost_inputs if resumption.HasField("lost_inputs") else None

    def finish(self, eof: Eof) -> None:
        """Take in how the call ended."""
        if not eof.HasField("ending_state"):
            return
        self._end = _position(eof.ending_state)
        if not self._is_compared:
            self._is_compared = True
            is_named = eof.HasField("beginning_inputs_position")
            self._begin = eof.beginning_inputs_position if is_named else self._end
            self._lost = eof.lost_inputs if eof.HasField("lost_inputs") else None

    async def leave_lineage(self, connection: Connection) -> None:
        """Have events applied again whose position is of a lineage that the state leaves.

        Events that were applied beside a sync without a state began that lineage: the destination
        accounts for them there, and not in the lineage that the sync began.
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
        """Store the change, and have lost events applied again.

        Events that are applied again although they need not be do no harm, so they stay pending
        where the answer is False.

        Returns:
            Whether the change is stored: not where another call has stored one since this call
            began, or has pruned an event that was lost. The next call compares again.
        """
        if not self.is_changed:
            return True
        kept_behind = None
        if self._lost is not None and not self._lost.covered_by_reread:
            # All that the destination holds for certain is what it names, and what was before that
            # which can be sent again.
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
            # Events before are in the past of another series, or made up for by a reread.
            series, replayable = series + 1, self._begin
        elif not is_lost and self._begin != self._sent:
            # The destination is ahead: the store may be an older copy, without these inputs.
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
