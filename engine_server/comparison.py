"""Compares the state of one request with the checkpoints that its destination recorded."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from engine_server.connectors.protocols import (
    AccountKeeper,
    CheckpointKeeper,
    Messages,
    Resumed,
    ResumeRequest,
    SelectedStream,
)
from engine_server.pipeline import ResolvedDestination, ResolvedSource
from engine_server.stages.contain_failure import contain_failure
from engine_server.stages.reduce import Ending
from engine_server.stages.stamp import stamp
from engine_server.state import has_no_checkpoints
from pipesync.v1.message_pb2 import Message
from pipesync.v1.state_pb2 import CheckpointPosition, SyncState


@dataclass(slots=True, kw_only=True)
class Comparison:
    """One comparison, and its outcome once ``messages`` has ended.

    Attributes:
        source: Whose account it is about.
        destination: Where checkpoints are recorded.
        keeper: The connector of the same.
        streams: The selected streams.
        state: The state that the request begins with.
        is_beside_run: Whether it reads no history.
        moves_global: Whether it moves the checkpoint that all streams share.
        pushes_inputs: Whether it writes inputs that the caller has to send again when they fail.
        replayable_inputs: As of ``ResumeRequest``.
        account_id: The account, once it is known; empty when the source does not say.
        resumed: The outcome; None when there is none, as it failed or was cut.
    """

    source: ResolvedSource
    destination: ResolvedDestination
    keeper: CheckpointKeeper[Any]
    streams: Sequence[SelectedStream]
    state: SyncState
    is_beside_run: bool
    moves_global: bool
    pushes_inputs: bool
    replayable_inputs: CheckpointPosition | None
    account_id: str = field(default="", init=False)
    resumed: Resumed | None = field(default=None, init=False)

    @property
    def records_inputs(self) -> bool:
        """Whether the destination is to record the end of the inputs.

        A caller without a state would start a lineage with each call.
        """
        is_stateless = not self.state.destination and has_no_checkpoints(self.state)
        return self.pushes_inputs and not is_stateless

    async def messages(self, ending: Ending) -> Messages:
        """Compare; yield a failed connection alone. ``ending`` notes any other failure."""
        for compare, name in (
            (self._find_account, self.source.name),
            (self._resume, self.destination.name),
        ):
            contained = contain_failure(compare, name, ending.fail)
            async with aclosing(contained), aclosing(stamp(contained, name)) as stamped:
                async for message in stamped:
                    yield message
                    return
            if ending.failure_message:
                return

    async def _find_account(self) -> Messages:
        connector: object = self.source.connector
        if isinstance(connector, AccountKeeper):
            self.account_id = await connector.account_id(self.source.config)
        for message in _NOTHING:
            yield message

    async def _resume(self) -> Messages:
        request = ResumeRequest(
            account_id=self.account_id,
            state=self.state,
            reads=[] if self.is_beside_run else [stream.name for stream in self.streams],
            moves_global=self.moves_global,
            pushes_inputs=self.records_inputs,
            replayable_inputs=self.replayable_inputs,
        )
        self.resumed = await self.keeper.resume(self.destination.config, self.streams, request)
        for message in _NOTHING:
            yield message


_NOTHING: tuple[Message, ...] = ()
