"""Engine on a real port with one scripted pipeline."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from engine_server.servicer import EngineServicer
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, StreamSelection
from pipesync.v1.engine_service_pb2 import (
    DESCRIPTOR,
    PipelineReadRequest,
    PipelineSyncBatchRequest,
    PipelineSyncRequest,
    SyncOptions,
)
from pipesync.v1.engine_service_pb2_grpc import add_EngineServiceServicer_to_server
from pipesync.v1.message_pb2 import Message
from pipesync.v1.state_pb2 import Eof, SyncState
from pipesync_client import EngineClient
from pipesync_server.server import RpcServer
from tests.engine_server.reads import Dataset, Read, pages
from tests.engine_server.scripted import (
    DestinationScript,
    SourceScript,
    destination_scripts,
    scripted_registry,
    source_scripts,
)
from tests.messages import stream, struct

SCRIPT = "the test's"


@dataclass(kw_only=True)
class ScriptedEngine:
    """Engine, its client, and the scripts of its pipeline."""

    client: EngineClient
    servicer: EngineServicer
    source: SourceScript = field(default_factory=SourceScript)
    destination: DestinationScript = field(default_factory=DestinationScript)

    def offers(self, *names: str, read: Read) -> None:
        """Make the source offer these streams, and read by ``read``."""
        self.source.streams = [stream(name) for name in names]
        self.source.read = read

    def holds(self, dataset: Dataset) -> None:
        """Make the source offer these pages, and read them correctly."""
        self.offers(*dataset, read=pages(dataset))

    async def sync(
        self,
        *,
        streams: Sequence[StreamSelection] = (),
        timeout: float | None = None,
        **options: Any,
    ) -> list[Message]:
        """Return all messages of a PipelineSync with these SyncOptions."""
        request = PipelineSyncRequest(pipeline=pipeline(streams), options=SyncOptions(**options))
        return [
            response.message
            async for response in self.client.pipeline_sync(request, timeout=timeout)
        ]

    async def read(
        self, *, streams: Sequence[StreamSelection] = (), **options: Any
    ) -> list[Message]:
        """Return all messages of a PipelineRead."""
        request = PipelineReadRequest(pipeline=pipeline(streams), options=SyncOptions(**options))
        return [response.message async for response in self.client.pipeline_read(request)]

    async def batch(
        self,
        *,
        streams: Sequence[StreamSelection] = (),
        timeout: float | None = None,
        **options: Any,
    ) -> Eof:
        """Return the eof of a PipelineSyncBatch."""
        request = PipelineSyncBatchRequest(
            pipeline=pipeline(streams), options=SyncOptions(**options)
        )
        return (await self.client.pipeline_sync_batch(request, timeout=timeout)).eof

    async def loop(
        self, *, state: SyncState | None = None, at_most: int = 50, **options: Any
    ) -> list[Eof]:
        """Return the eofs of consecutive batches until ``has_more`` is unset."""
        ends: list[Eof] = []
        while len(ends) < at_most:
            ends.append(await self.batch(state=state, **options))
            if not ends[-1].has_more:
                return ends
            state = ends[-1].ending_state
        raise AssertionError(f"has_more is still true after {at_most} requests")


def connector(**config: Any) -> Connector:
    """Return the scripted connector of either side."""
    return Connector(type="scripted", config=struct({"script": SCRIPT, **config}))


def pipeline(streams: Sequence[StreamSelection] = ()) -> PipelineConfig:
    """Return the pipeline from the scripted source to the scripted destination."""
    return PipelineConfig(source=connector(), destination=connector(), streams=streams)


@asynccontextmanager
async def scripted_engine() -> AsyncIterator[ScriptedEngine]:
    """Serve an engine during the block, then drain it and drop the scripts."""
    servicer = EngineServicer(scripted_registry())
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
        engine = ScriptedEngine(client=client, servicer=servicer)
        source_scripts[SCRIPT] = engine.source
        destination_scripts[SCRIPT] = engine.destination
        try:
            yield engine
        finally:
            source_scripts.clear()
            destination_scripts.clear()
