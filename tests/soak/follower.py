"""Caller that follows an account through an engine that may be killed at any time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from google.rpc import code_pb2

from pipesync.v1.catalog_pb2 import PipelineConfig
from pipesync.v1.engine_service_pb2 import (
    PipelineSyncBatchRequest,
    PipelineSyncRequest,
    SyncOptions,
)
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync.v1.state_pb2 import DeadLetter, Eof, SyncState
from pipesync_client import EngineClient
from pipesync_rpc.errors import RpcError

# The status codes of a call whose engine is killed.
_DEATH = frozenset({code_pb2.UNAVAILABLE, code_pb2.CANCELLED, code_pb2.UNKNOWN})
_RUN = "soak"


class Follower:
    """Caller of the engine that stores the state, and only as the engine's answers report it.

    Attributes:
        state: The state that the next request starts from.
        calls: The number of calls made.
        dead_letters: The dead-lettered events, by their ids.
        held_rejected: The number of records listed as rejected when ``finish`` ended; None before.
    """

    def __init__(
        self,
        client: EngineClient,
        config: PipelineConfig,
        on_dead_letter: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Begin with an empty state; the callback receives the id of each dead-lettered event."""
        self.state = SyncState()
        self.calls = 0
        self.dead_letters: dict[str, DeadLetter] = {}
        self.held_rejected: int | None = None
        self._on_dead_letter = on_dead_letter
        self._client = client
        self._config = config

    async def finish(self, **options: Any) -> None:
        """Call until has_more is false, through engine kills; options are of SyncOptions."""
        while True:
            eof = await self._batch(**options)
            if eof is not None:
                assert not eof.failure_message, eof.failure_message
                self._keep_dead_letters(eof.dead_letters)
                self.state = eof.ending_state
                self.held_rejected = eof.held_rejected_record_count
                if not eof.has_more:
                    assert eof.status == RUN_STATUS_SUCCEEDED, eof.run_progress
                    return

    async def poll(self, *, every: float) -> None:
        """Poll for events repeatedly, until cancelled."""
        while True:
            await self.finish(events_only=True)
            await asyncio.sleep(every)

    async def listen(self) -> None:
        """Read the history and apply events as they arrive, until cancelled."""
        while True:
            async for message in self._sync():
                self._keep(message)

    async def _batch(self, **options: Any) -> Eof | None:
        """Return how one call ended; None when the engine was killed."""
        self.calls += 1
        request = PipelineSyncBatchRequest(
            pipeline=self._config, options=SyncOptions(state=self.state, **options)
        )
        try:
            return (await self._client.pipeline_sync_batch(request)).eof
        except RpcError as error:
            if error.code not in _DEATH:
                raise
            return None

    async def _sync(self) -> AsyncIterator[Message]:
        self.calls += 1
        options = SyncOptions(state=self.state, run_id=_RUN)
        request = PipelineSyncRequest(pipeline=self._config, options=options)
        try:
            async for response in self._client.pipeline_sync(request):
                yield response.message
        except RpcError as error:
            if error.code not in _DEATH:
                raise

    def _keep(self, message: Message) -> None:
        match message.WhichOneof("payload"):
            case "source_state" if message.source_state.stream:
                self.state.source.streams[message.source_state.stream] = message.source_state.data
            case "source_state":
                self.state.source.shared = message.source_state.data
            case "sync_run":
                self.state.sync_run.CopyFrom(message.sync_run)
            case "progress":
                self.state.sync_run.progress.CopyFrom(message.progress)
            case "dead_letter":
                self._keep_dead_letters([message.dead_letter])
            case "eof":
                assert not message.eof.failure_message, message.eof.failure_message
                self.state.CopyFrom(message.eof.ending_state)

    def _keep_dead_letters(self, letters: Iterable[DeadLetter]) -> None:
        for letter in letters:
            assert letter.event_json, letter
            assert letter.reason, letter
            self.dead_letters[letter.event_id] = letter
            self._on_dead_letter(letter.event_id)
