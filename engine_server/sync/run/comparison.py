"""Comparison of a request's state with the checkpoints that its destination recorded."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from engine_server.connectors.protocols import (
    AccountSource,
    CheckpointKeeper,
    Messages,
    ResumeRequest,
    ResumeResult,
    SelectedStream,
)
from engine_server.stages.annotate_and_log import annotate_and_log
from engine_server.stages.contain_failure import contain_failure
from engine_server.stages.ending import Ending
from engine_server.state.state import has_no_checkpoints
from engine_server.sync.checks.resolution import ResolvedDestination, ResolvedSource
from pipesync.v1.message_pb2 import Message
from pipesync.v1.state_pb2 import CheckpointPosition, SyncState


@dataclass(slots=True, kw_only=True)
class Comparison:
    """One comparison, and its outcome once ``messages`` has ended.

    Attributes:
        source: Source whose account is compared.
        destination: Destination that records checkpoints.
        keeper: Connector of the destination.
        streams: The selected streams.
        state: State that the request begins with.
        is_beside_run: Whether the request belongs to no run, and so reads no history.
        advances_shared_checkpoint: Whether the request advances the shared checkpoint.
        pushes_inputs: Whether the request writes inputs that the caller sends again if they fail.
        replayable_inputs: See ``ResumeRequest``.
        account_id: Account of the source, once known; empty if the source has none.
        resumed: The outcome; None if the comparison failed or was cut off.
    """

    source: ResolvedSource
    destination: ResolvedDestination
    keeper: CheckpointKeeper[Any]
    streams: Sequence[SelectedStream]
    state: SyncState
    is_beside_run: bool
    advances_shared_checkpoint: bool
    pushes_inputs: bool
    replayable_inputs: CheckpointPosition | None
    account_id: str = field(default="", init=False)
    resumed: ResumeResult | None = field(default=None, init=False)

    @property
    def records_inputs(self) -> bool:
        """Whether the destination records the end of the inputs.

        It does not for a caller without a state, which would start a lineage with each call.
        """
        is_stateless = not self.state.destination and has_no_checkpoints(self.state)
        return self.pushes_inputs and not is_stateless

    async def messages(self, ending: Ending) -> Messages:
        """Run the comparison; yield only a failed connection, and report other failures."""
        for compare, name in (
            (self._find_account, self.source.name),
            (self._resume, self.destination.name),
        ):
            contained = contain_failure(compare, name, ending.fail)
            async with (
                aclosing(contained),
                aclosing(annotate_and_log(contained, name)) as annotated,
            ):
                async for message in annotated:
                    yield message
                    return
            if ending.failure_message:
                return

    async def _find_account(self) -> Messages:
        connector: object = self.source.connector
        if isinstance(connector, AccountSource):
            self.account_id = await connector.account_id(self.source.config)
        for message in _NOTHING:
            yield message

    async def _resume(self) -> Messages:
        request = ResumeRequest(
            account_id=self.account_id,
            state=self.state,
            advanced_streams=[] if self.is_beside_run else [stream.name for stream in self.streams],
            advances_shared_checkpoint=self.advances_shared_checkpoint,
            pushes_inputs=self.records_inputs,
            replayable_inputs=self.replayable_inputs,
        )
        self.resumed = await self.keeper.resume(self.destination.config, self.streams, request)
        for message in _NOTHING:
            yield message


_NOTHING: tuple[Message, ...] = ()
