"""Scripted destination that records checkpoints and answers queries for its rows."""

import asyncio
from collections import defaultdict
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

from engine_server.connectors.config import config_schema
from engine_server.connectors.protocols import (
    Messages,
    ResumeRequest,
    ResumeResult,
    SelectedStream,
    StoredRows,
)
from engine_server.state.stream_name import stream_name
from pipesync.v1.catalog_pb2 import Spec
from pipesync.v1.message_pb2 import Message
from tests.engine_server.recorded.database import GLOBAL, INPUTS, Database, Token
from tests.engine_server.scripted import (
    ScriptedConfig,
    ScriptedDestination,
    at_once,
    destination_scripts,
)
from tests.messages import errored


@dataclass(kw_only=True)
class Recording:
    """Database of one script, and its comparisons.

    Attributes:
        database: The database.
        before_resume: Awaited before each comparison; may block or raise.
        requests: The requests that were compared, in order.
        resuming: Set once a comparison has begun.
    """

    database: Database = field(default_factory=Database)
    before_resume: Callable[[], Awaitable[None]] = at_once
    requests: list[ResumeRequest] = field(default_factory=list)
    resuming: asyncio.Event = field(default_factory=asyncio.Event)


# Recordings by the name of their script.
recordings: dict[str, Recording] = defaultdict(Recording)


class RecordingDestination(ScriptedDestination):
    """Destination that commits as its DestinationScript says, into its recording's database."""

    def spec(self) -> Spec:
        return Spec(config_schema=config_schema(ScriptedConfig), supports_reconcile=True)

    async def resume(
        self, config: ScriptedConfig, streams: Sequence[SelectedStream], request: ResumeRequest
    ) -> ResumeResult:
        recording = recordings[config.script]
        recording.requests.append(request)
        recording.resuming.set()
        await recording.before_resume()
        return recording.database.resume([selected.name for selected in streams], request)

    async def write_resumed(
        self,
        config: ScriptedConfig,
        streams: Sequence[SelectedStream],
        messages: AsyncIterator[Message],
        resumed: ResumeResult,
    ) -> Messages:
        script, recording = destination_scripts[config.script], recordings[config.script]
        token = cast("Token", resumed.write_token)
        held: list[Message] = []
        refused: set[str] = set()
        try:
            async for message in messages:
                held.append(message)
                if len(held) >= script.commit_every or message.HasField("barrier"):
                    await script.before_commit()
                    for passed_on in _commit(
                        recording.database, token, held, refused, script.refuses
                    ):
                        yield passed_on
                    held.clear()
            await script.before_commit()
            for passed_on in _commit(recording.database, token, held, refused, script.refuses):
                yield passed_on
        finally:
            await asyncio.sleep(0)
            script.closed.set()

    @asynccontextmanager
    async def stored_rows(
        self, config: ScriptedConfig, streams: Sequence[SelectedStream]
    ) -> AsyncIterator[StoredRows]:
        yield cast("StoredRows", RecordedRows(recordings[config.script].database))


class RecordedRows:
    """Rows of a database, limited to ids."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def created_in(
        self, stream: str, gte: int | None, lt: int | None, *, account_id: str = ""
    ) -> AsyncGenerator[Mapping[str, int | None], None]:
        yield dict.fromkeys(self._database.alive(stream))

    async def belonging_to(
        self, stream: str, field: str, owners: Collection[str], *, account_id: str = ""
    ) -> Collection[tuple[str, str]]:
        return []

    async def update_times(
        self, stream: str, ids: Collection[str], *, account_id: str = ""
    ) -> Mapping[str, int]:
        return {}


def _commit(
    database: Database,
    token: Token,
    held: Sequence[Message],
    refused: set[str],
    refuses: Collection[str],
) -> list[Message]:
    """Commit all of ``held``, or nothing if a line has moved."""
    copy = database.dump()
    passed_on: list[Message] = []
    for message in held:
        name = stream_name(message)
        if name in refused:
            continue
        if message.HasField("record_batch") and name in refuses:
            refused.add(name)
            passed_on.append(errored(name, f"{name} was refused"))
            continue
        if message.HasField("record_batch"):
            copy.put(name, message.record_batch.records)
        elif message.HasField("source_state"):
            _record(copy, token, message, refused)
        elif message.HasField("inputs_end") and not refused:
            message.inputs_end.position.CopyFrom(copy.moved(token, INPUTS))
        passed_on.append(message)
    database.tables, database.lines = copy.tables, copy.lines
    return passed_on


def _record(database: Database, token: Token, message: Message, refused: set[str]) -> None:
    checkpoint = message.source_state
    if checkpoint.stream == GLOBAL and not refused.issubset(checkpoint.excluded_streams):
        return
    changes = {"checkpoint": checkpoint.data}
    if checkpoint.stream_schema:
        changes["schema"] = checkpoint.stream_schema
    checkpoint.position.CopyFrom(database.moved(token, checkpoint.stream, **changes))


def rows(database: Database, stream: str) -> list[str]:
    """Return the sorted ids of a stream's rows."""
    return sorted(database.tables.get(stream, {}))
