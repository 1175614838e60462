"""One pipeline from a simulated account to a real database, called through the engine's RPCs."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import asyncpg
from google.protobuf.duration_pb2 import Duration

from engine_server.connectors.registry import ConnectorRegistry
from engine_server.servicer import EngineServicer
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, StreamSelection
from pipesync.v1.engine_service_pb2 import (
    DESCRIPTOR,
    PipelineSyncBatchRequest,
    PipelineSyncRequest,
    SyncOptions,
)
from pipesync.v1.engine_service_pb2_grpc import add_EngineServiceServicer_to_server
from pipesync.v1.message_pb2 import Message
from pipesync.v1.state_pb2 import Eof, SyncState
from pipesync_client import EngineClient
from pipesync_server.server import RpcServer
from tests.messages import struct
from tests.stripe_simulator.simulator import StripeSimulator

Rpc = Literal["PipelineSync", "PipelineSyncBatch"]
RPCS: tuple[Rpc, ...] = ("PipelineSync", "PipelineSyncBatch")
# A pipeline that takes more requests than this is taken to be endless.
_MOST_REQUESTS = 200


def seconds(value: float) -> Duration:
    """Return a time limit."""
    duration = Duration()
    duration.FromNanoseconds(int(value * 1e9))
    return duration


@asynccontextmanager
async def served_engine(registry: ConnectorRegistry | None = None) -> AsyncIterator[EngineClient]:
    """Serve an engine in this process, by default with the installed connectors; yield a client."""
    servicer = EngineServicer(registry or ConnectorRegistry.installed())
    async with (
        RpcServer(
            listen="127.0.0.1:0",
            register=partial(add_EngineServiceServicer_to_server, servicer),
            service_names=[DESCRIPTOR.services_by_name["EngineService"].full_name],
            on_drain=servicer.request_shutdown,
            grace=1.0,
        ) as server,
        EngineClient(server.address) as client,
    ):
        yield client


@dataclass(frozen=True, slots=True, kw_only=True)
class StripePipeline:
    """A pipeline from an account to a database.

    Attributes:
        simulator: The account to read.
        database_url: The database to write to.
        streams: The selected streams.
        schema: The schema of the tables.
        source: Further configuration of the source.
        destination: Further configuration of the destination.
    """

    simulator: StripeSimulator
    database_url: str
    streams: Sequence[StreamSelection]
    schema: str = "stripe"
    source: Mapping[str, Any] = field(default_factory=dict)
    destination: Mapping[str, Any] = field(default_factory=dict)

    def config(self) -> PipelineConfig:
        """Return the pipeline as the engine takes it; the account is given, and not looked up.

        Its rate limit is never reached; it makes the source spare requests as with Stripe.
        """
        source = {
            "api_key": self.simulator.api_key,
            "base_url": self.simulator.base_url,
            "account_id": self.simulator.account_id,
            "rate_limit": 10_000,
            **self.source,
        }
        destination = {"url": self.database_url, "schema": self.schema, **self.destination}
        return PipelineConfig(
            source=Connector(type="stripe", config=struct(source)),
            destination=Connector(type="postgres", config=struct(destination)),
            streams=self.streams,
        )

    def in_schema(self, schema: str) -> "StripePipeline":
        """Return the same pipeline with another schema."""
        return replace(self, schema=schema)

    def selecting(self, *streams: StreamSelection) -> "StripePipeline":
        """Return the same pipeline with another selection."""
        return replace(self, streams=streams)

    async def messages(
        self, client: EngineClient, *, timeout: float | None = None, **options: Any
    ) -> list[Message]:
        """Return all messages of a PipelineSync; options are those of SyncOptions."""
        request = PipelineSyncRequest(pipeline=self.config(), options=SyncOptions(**options))
        return [
            response.message async for response in client.pipeline_sync(request, timeout=timeout)
        ]

    async def sync(
        self,
        client: EngineClient,
        rpc: Rpc = "PipelineSyncBatch",
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> Eof:
        """Return the Eof of one request; options are those of SyncOptions."""
        if rpc == "PipelineSync":
            return (await self.messages(client, timeout=timeout, **options))[-1].eof
        request = PipelineSyncBatchRequest(pipeline=self.config(), options=SyncOptions(**options))
        return (await client.pipeline_sync_batch(request, timeout=timeout)).eof

    async def sync_to_the_end(
        self,
        client: EngineClient,
        rpc: Rpc = "PipelineSyncBatch",
        *,
        state: SyncState | None = None,
        **options: Any,
    ) -> list[Eof]:
        """Send requests with the last one's state until has_more is false; return their Eofs."""
        ends: list[Eof] = []
        while len(ends) < _MOST_REQUESTS:
            ends.append(await self.sync(client, rpc, state=state, **options))
            if not ends[-1].has_more:
                return ends
            state = ends[-1].ending_state
        raise AssertionError(f"has_more is still true after {_MOST_REQUESTS} requests")

    async def ids(self, stream: str) -> set[str]:
        """Return the ids of a stream's rows; none when there is no table."""
        connection = await asyncpg.connect(self.database_url)
        try:
            table = f'"{self.schema}"."{stream}"'
            if await connection.fetchval("SELECT to_regclass($1)", table) is None:
                return set()
            rows = await connection.fetch(f"SELECT id FROM {table}")  # noqa: S608 - names of our own
        finally:
            await connection.close()
        return {row["id"] for row in rows}

    def accounted_ids(self, state: SyncState, stream: str) -> set[str]:
        """Return the ids of the objects that were read according to a stream's checkpoint."""
        if stream not in state.source.streams:
            return set()
        checkpoint = json.loads(state.source.streams[stream])
        documents = list(self.simulator.objects(stream).documents())
        places = {document["id"]: place for place, document in enumerate(documents)}

        def lies_in(part: Mapping[str, Any], place: int) -> bool:
            created = documents[place]["created"]
            # Oldest first: the objects that a cursor has passed are at its place and after it.
            before_cursor = place < places.get(part.get("cursor"), len(documents))
            return part.get("gte", 0) <= created < part.get("lt", created + 1) and before_cursor

        return {
            object_id
            for object_id, place in places.items()
            if lies_in(checkpoint["accounted_range"], place)
            and not any(lies_in(part, place) for part in checkpoint["remaining"])
        }


def selections(*names: str) -> list[StreamSelection]:
    """Return selections of whole streams."""
    return [StreamSelection(name=name) for name in names]
