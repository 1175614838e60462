"""Sync from an account to a database in memory, with a caller that stores the state."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from engine_server.flush_times import FlushTimes
from engine_server.state.state import apply_checkpoint
from engine_server.sync.checks.resolution import ResolvedDestination, ResolvedSource
from engine_server.sync.plan.plan import SyncPlan
from engine_server.sync.plan.plan_sync import plan_sync
from engine_server.sync.run.run import run_sync
from pipesync.v1.catalog_pb2 import Spec
from pipesync.v1.engine_service_pb2 import PipelineSyncRequest, SyncOptions
from pipesync.v1.message_pb2 import Message, SourceInput
from pipesync.v1.state_pb2 import Eof, SyncState
from tests.engine_server.recorded.account import Account
from tests.engine_server.recorded.database import Database
from tests.engine_server.recorded.destination import (
    Recording,
    RecordingDestination,
    recordings,
)
from tests.engine_server.scripted import (
    DestinationScript,
    ScriptedConfig,
    ScriptedSource,
    SourceScript,
    destination_scripts,
    source_scripts,
)
from tests.messages import selected

SCRIPT = "recorded"
MOST_REQUESTS = 100


class ComparingSource(ScriptedSource):
    """Scripted source that supports reconciling."""

    follows_events_field = "follows_events"

    def spec(self) -> Spec:
        spec = super().spec()
        spec.supports_reconcile = True
        spec.follows_events_field = self.follows_events_field
        spec.source_input_schema.update({"type": "object"})
        return spec


@dataclass(kw_only=True)
class Pipeline:
    """Account, database, and the scripts of both sides."""

    account: Account
    source: SourceScript
    destination: DestinationScript
    recording: Recording
    streams: Sequence[str]
    deadline: float | None = field(default=None)

    @property
    def database(self) -> Database:
        return self.recording.database

    def plan(self, inputs: Sequence[SourceInput] = (), **options: Any) -> SyncPlan:
        """Return the plan of a sync with these SyncOptions, as the servicer creates it."""
        config = ScriptedConfig(script=SCRIPT)
        return plan_sync(
            PipelineSyncRequest(options=SyncOptions(**options), inputs=inputs),
            ResolvedSource(type="scripted", connector=ComparingSource(), config=config),
            ResolvedDestination(type="scripted", connector=RecordingDestination(), config=config),
            [selected(name) for name in self.streams],
            default_state_limit=None,
            seconds_to_deadline=None,
            flush_times=FlushTimes(),
        )

    async def messages(
        self, inputs: Sequence[SourceInput] = (), **options: Any
    ) -> AsyncIterator[Message]:
        async with aclosing(run_sync(self.plan(inputs, **options))) as messages:
            async for message in messages:
                yield message

    async def sync(self, inputs: Sequence[SourceInput] = (), **options: Any) -> Eof:
        """Return the eof of one request."""
        return [message async for message in self.messages(inputs, **options)][-1].eof

    async def sync_to_the_end(self, state: SyncState, **options: Any) -> Eof:
        """Return the eof of the last request of a run."""
        for _ in range(MOST_REQUESTS):
            eof = await self.sync(state=state, **options)
            if not eof.has_more:
                return eof
            state = eof.ending_state
        raise AssertionError(f"has_more is still true after {MOST_REQUESTS} requests")

    async def leave(self, state: SyncState, count: int, **options: Any) -> SyncState:
        """Close a sync after a number of messages, and keep the state stored by then."""
        stored = SyncState()
        stored.CopyFrom(state)
        async with aclosing(run_sync(self.plan(state=state, **options))) as messages:
            async for message in messages:
                store(stored, message)
                count -= 1
                if count <= 0:
                    break
        return stored

    def tables(self) -> dict[str, dict[str, Any]]:
        """Return the value of each row that is not deleted, by stream and id."""
        return {
            stream: {
                name: row["value"] for name, row in self.recording.database.alive(stream).items()
            }
            for stream in self.streams
        }

    def expected(self) -> dict[str, dict[str, str]]:
        return {stream: self.account.expected(stream) for stream in self.streams}


def store(state: SyncState, message: Message) -> None:
    """Store the state of a message as a service does."""
    match message.WhichOneof("payload"):
        case "resumption":
            state.CopyFrom(message.resumption.state)
        case "sync_run":
            state.sync_run.CopyFrom(message.sync_run)
        case "progress" if state.sync_run.run_id or state.HasField("sync_run"):
            state.sync_run.progress.CopyFrom(message.progress)
        case "source_state":
            apply_checkpoint(state, message)
            if message.source_state.stream_schema:
                name = message.source_state.stream
                state.stream_schemas[name] = message.source_state.stream_schema
        case "eof":
            state.CopyFrom(message.eof.ending_state)


@contextmanager
def pipeline_of(account: Account) -> Iterator[Pipeline]:
    """Yield a pipeline whose scripts are registered during the block."""
    names = list(account.objects)
    source = source_scripts[SCRIPT] = SourceScript(read=account.read)
    destination = destination_scripts[SCRIPT] = DestinationScript()
    recording = recordings[SCRIPT]
    try:
        yield Pipeline(
            account=account,
            source=source,
            destination=destination,
            recording=recording,
            streams=names,
        )
    finally:
        del source_scripts[SCRIPT], destination_scripts[SCRIPT], recordings[SCRIPT]
