"""Correct source and destination in memory, for subclasses that break rules."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pydantic import Field, SecretStr

from engine_server.connectors.config import ConnectorConfig, config_schema
from engine_server.connectors.protocols import (
    Messages,
    ReadRequest,
    SelectedStream,
    StoredRows,
)
from engine_server.errors import ConnectionFailed
from engine_server.state.stream_name import stream_name
from pipesync.v1.catalog_pb2 import Catalog, Spec
from pipesync.v1.message_pb2 import Message
from tests.messages import (
    checkpoint,
    completed,
    connected,
    connection_failed,
    errored,
    record_batch,
    rows_written,
    started,
    stream,
)

HELD = {"a": 5, "b": 1, "c": 0}
REFUSED = b'{"id": "refused"}'


class InMemoryConfig(ConnectorConfig):
    """Configuration of the connectors in memory."""

    password: SecretStr
    reachable: bool = True
    page_size: int = Field(2, ge=1)


class InMemoryConnector:
    """Methods of both connectors."""

    config_model = InMemoryConfig

    def spec(self) -> Spec:
        return Spec(config_schema=config_schema(InMemoryConfig))

    async def check(self, config: InMemoryConfig, streams: Sequence[SelectedStream]) -> Messages:
        try:
            connect(config)
            yield connected()
        except ConnectionFailed as error:
            yield connection_failed(error.message)

    def setup(self, config: InMemoryConfig, streams: Sequence[SelectedStream]) -> Messages:
        return nothing()

    def teardown(self, config: InMemoryConfig, streams: Sequence[SelectedStream]) -> Messages:
        return nothing()


class InMemorySource(InMemoryConnector):
    """Source of numbered records, whose checkpoint is the number of records read."""

    fetches = 0

    async def discover(self, config: InMemoryConfig) -> Messages:
        yield Message(catalog=Catalog(streams=[stream(name) for name in HELD]))

    async def read(self, config: InMemoryConfig, request: ReadRequest) -> Messages:
        connect(config)
        for selected in request.streams:
            name = selected.name
            read = json.loads(request.state.streams.get(name, '{"read": 0}'))["read"]
            yield started(name)
            for first in range(read, HELD[name], config.page_size):
                if name in request.errored_streams:
                    break
                page = await self.fetch(name, first, config.page_size)
                for message in self.page(name, page, first):
                    yield message
            if name not in request.errored_streams:
                yield completed(name)

    async def fetch(self, name: str, first: int, count: int) -> list[Mapping[str, Any]]:
        """Return ``count`` records from ``first`` on."""
        self.fetches += 1
        await asyncio.sleep(0)
        return [{"id": number} for number in range(first, min(first + count, HELD[name]))]

    def page(
        self, name: str, records: Sequence[Mapping[str, Any]], first: int
    ) -> Iterator[Message]:
        """Yield the messages of one page."""
        yield record_batch(name, *records)
        yield checkpoint(name, json.dumps({"read": first + len(records)}))


class InMemoryDestination(InMemoryConnector):
    """Destination that commits each time it holds ``page_size`` messages."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)

    async def rows(self, name: str) -> list[Mapping[str, Any]]:
        """Return the committed records of a stream."""
        return list(self.tables[name].values())

    async def write(
        self,
        config: InMemoryConfig,
        streams: Sequence[SelectedStream],
        messages: AsyncIterator[Message],
    ) -> Messages:
        connect(config)
        held: list[Message] = []
        refused: set[str] = set()
        async for message in messages:
            held.append(message)
            if len(held) == config.page_size:
                for passed_on in self.commit(held, refused):
                    yield passed_on
                held.clear()
        for passed_on in self.commit(held, refused):
            yield passed_on

    def teardown(self, config: InMemoryConfig, streams: Sequence[SelectedStream]) -> Messages:
        for selected in streams:
            self.tables.pop(selected.name, None)
        return nothing()

    def commit(self, held: Sequence[Message], refused: set[str]) -> Iterator[Message]:
        """Commit the records of ``held``, and then yield its messages."""
        passed_on = []
        for message in held:
            name = stream_name(message)
            if name in refused:
                continue
            if REFUSED in message.record_batch.records:
                refused.add(name)
                passed_on.append(errored(name))
                continue
            passed_on.append(message)
            if message.HasField("record_batch"):
                passed_on.append(self.put(name, message.record_batch.records))
        yield from passed_on

    def put(self, name: str, records: Sequence[bytes]) -> Message:
        """Commit records of one stream, and return their counts."""
        inserted = 0
        for record in records:
            row = json.loads(record)
            inserted += row["id"] not in self.tables[name]
            self.tables[name][row["id"]] = row
        return rows_written(name, inserted=inserted, updated=len(records) - inserted)


class InMemoryKeeper(InMemoryDestination):
    """Destination whose committed records can be queried."""

    def spec(self) -> Spec:
        return Spec(config_schema=config_schema(InMemoryConfig), supports_reconcile=True)

    @asynccontextmanager
    async def stored_rows(
        self, config: InMemoryConfig, streams: Sequence[SelectedStream]
    ) -> AsyncIterator[StoredRows]:
        yield InMemoryStoredRows(self, config)


class InMemoryStoredRows:
    """Stored rows of a destination in memory, for the fields and account of the suite's records."""

    def __init__(self, destination: InMemoryDestination, config: InMemoryConfig) -> None:
        self._destination = destination
        self._config = config

    async def created_in(
        self, stream: str, gte: int | None, lt: int | None, *, account_id: str = ""
    ) -> AsyncGenerator[Mapping[str, int | None], None]:
        connect(self._config)
        rows = self.rows(stream, account_id)
        if gte is None and lt is None:
            yield {row["id"]: None for row in rows}
            return
        made = [row for row in rows if "made" in row and self.lies_in(row["made"], gte, lt)]
        made.sort(key=lambda row: int(row["made"]), reverse=True)
        yield {row["id"]: row["made"] for row in made}

    async def belonging_to(
        self, stream: str, field: str, owners: Collection[str], *, account_id: str = ""
    ) -> Collection[tuple[str, str]]:
        connect(self._config)
        return [
            (row[field], row["id"])
            for row in self.rows(stream, account_id)
            if row.get(field) in owners
        ]

    async def update_times(
        self, stream: str, ids: Collection[str], *, account_id: str = ""
    ) -> Mapping[str, int]:
        connect(self._config)
        return {
            row["id"]: row["_updated_at"]
            for row in self._destination.tables[stream].values()
            if row["id"] in ids
            and "_updated_at" in row
            and row["_account_id"] == (account_id or "account_1")
        }

    def rows(self, stream: str, account_id: str) -> list[Mapping[str, Any]]:
        """Return the rows of an account that are not deleted."""
        return [
            row
            for row in self._destination.tables[stream].values()
            if not row.get("gone") and row["_account_id"] == (account_id or "account_1")
        ]

    def lies_in(self, made: int, gte: int | None, lt: int | None) -> bool:
        """Return whether a time lies in [gte, lt)."""
        return (gte is None or made >= gte) and (lt is None or made < lt)


def connect(config: InMemoryConfig) -> None:
    """Raise ``ConnectionFailed`` unless the configuration is reachable."""
    if not config.reachable:
        raise ConnectionFailed("the memory is unreachable")


async def nothing() -> Messages:
    """Yield no message."""
    none: tuple[Message, ...] = ()
    for message in none:
        yield message
