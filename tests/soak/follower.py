"""Follows an account by an engine that may die at any time, and keeps what it was told to keep."""

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

# What a call ends with when the engine dies under it.
_DEATH = frozenset({code_pb2.UNAVAILABLE, code_pb2.CANCELLED, code_pb2.UNKNOWN})
_RUN = "soak"


class Follower:
    """Whoever calls the engine: it has the state, and stores nothing but what it was told.

    Attributes:
        state: What the next request goes on from.
        calls: How many were made.
        dead_letters: The events that were given up, by their ids.
        held_rejected: How many records were listed as rejected when ``finish`` ended; None before.
    """

    def __init__(
        self,
        client: EngineClient,
        config: PipelineConfig,
        on_dead_letter: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Begins with nothing; the callback is told the id of each event that is given up."""
        self.state = SyncState()
        self.calls = 0
        self.dead_letters: dict[str, DeadLetter] = {}
        self.held_rejected: int | None = None
        self._on_dead_letter = on_dead_letter
        self._client = client
        self._config = config

    async def finish(self, **options: Any) -> None:
        """Calls until there is no more, whatever dies meanwhile; options are of SyncOptions."""
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
        """Asks for what happened, again and again, until it is cancelled."""
        while True:
            await self.finish(events_only=True)
            await asyncio.sleep(every)

    async def listen(self) -> None:
        """Reads the history and takes what happens as it comes, until it is cancelled."""
        while True:
            async for message in self._sync():
                self._keep(message)

    async def _batch(self, **options: Any) -> Eof | None:
        """How one call ended; None when the engine died."""
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
                setattr(self.state.source, "global", message.source_state.data)
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
