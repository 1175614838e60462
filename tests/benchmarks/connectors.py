"""A source with any number of records, and a destination that stores none."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import orjson
from google.protobuf.json_format import ParseDict
from pydantic import Field

from engine_server.connectors.config import ConnectorConfig, config_schema
from engine_server.connectors.protocols import Messages, ReadRequest, SelectedStream
from engine_server.connectors.registry import DESTINATIONS_GROUP, SOURCES_GROUP
from pipesync.v1.catalog_pb2 import Catalog, Spec, Stream
from pipesync.v1.message_pb2 import Message
from tests.messages import checkpoint, completed, connected, record_batch, started

STREAM = "customers"
PAGE_RECORDS = 100
_FIELDS = ("object", "email", "name", "description")
# Makes a record about 1 KB long.
_DESCRIPTION = "x" * 850


class NumbersConfig(ConnectorConfig):
    """Configuration of the source."""

    records: int = Field(ge=0, description="How many records the stream has.")


class NumbersSource:
    """Source that makes its records as they are read, with a checkpoint after each page."""

    config_model = NumbersConfig

    def spec(self) -> Spec:
        return Spec(config_schema=config_schema(NumbersConfig))

    async def check(self, config: NumbersConfig, streams: Sequence[SelectedStream]) -> Messages:
        yield connected()

    async def discover(self, config: NumbersConfig) -> Messages:
        stream = {
            "name": STREAM,
            "primary_key": [{"segments": ["id"]}],
            "json_schema": {"properties": {field: {"type": "string"} for field in _FIELDS}},
        }
        yield Message(catalog=Catalog(streams=[ParseDict(stream, Stream())]))

    async def read(self, config: NumbersConfig, request: ReadRequest) -> Messages:
        first = int(request.state.streams.get(STREAM, "0"))
        yield started(STREAM)
        for number in range(first, config.records, PAGE_RECORDS):
            end = min(number + PAGE_RECORDS, config.records)
            # A real page arrives over the network: let the other tasks of the engine run.
            await asyncio.sleep(0)
            yield record_batch(STREAM, *(_record(each) for each in range(number, end)))
            yield checkpoint(STREAM, str(end))
        yield completed(STREAM)

    async def setup(self, config: NumbersConfig, streams: Sequence[SelectedStream]) -> Messages:
        return
        yield

    async def teardown(self, config: NumbersConfig, streams: Sequence[SelectedStream]) -> Messages:
        return
        yield


class NowhereConfig(ConnectorConfig):
    """Configuration of the destination, which is empty."""


class NowhereDestination:
    """Destination that acknowledges every message at once."""

    config_model = NowhereConfig

    def spec(self) -> Spec:
        return Spec(config_schema=config_schema(NowhereConfig))

    async def check(self, config: NowhereConfig, streams: Sequence[SelectedStream]) -> Messages:
        yield connected()

    async def write(
        self,
        config: NowhereConfig,
        streams: Sequence[SelectedStream],
        messages: AsyncIterator[Message],
    ) -> Messages:
        async for message in messages:
            yield message

    async def setup(self, config: NowhereConfig, streams: Sequence[SelectedStream]) -> Messages:
        return
        yield

    async def teardown(self, config: NowhereConfig, streams: Sequence[SelectedStream]) -> Messages:
        return
        yield


def installed_in(directory: Path) -> dict[str, str]:
    """Install both connectors into a directory as a package does.

    Returns:
        The environment in which an engine started from here finds them.
    """
    package = directory / "pipesync_benchmarks-0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: pipesync-benchmarks\nVersion: 0\n"
    )
    (package / "entry_points.txt").write_text(
        f"[{SOURCES_GROUP}]\nnumbers = {__name__}:{NumbersSource.__name__}\n"
        f"[{DESTINATIONS_GROUP}]\nnowhere = {__name__}:{NowhereDestination.__name__}\n"
    )
    return {"PYTHONPATH": str(directory)}


def _record(number: int) -> bytes:
    return orjson.dumps(
        {
            "id": f"cus_{number:012}",
            "object": "customer",
            "email": f"customer{number}@example.com",
            "name": f"Customer {number}",
            "description": _DESCRIPTION,
        }
    )
