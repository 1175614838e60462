"""Engine on a real port whose destination records checkpoints in memory."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint
from typing import Any, Literal

import pytest

from engine_server.connectors.registry import (
    DESTINATIONS_GROUP,
    SOURCES_GROUP,
    ConnectorRegistry,
)
from engine_server.servicer import EngineServicer
from pipesync.v1.catalog_pb2 import StreamSelection
from pipesync.v1.engine_service_pb2 import (
    DESCRIPTOR,
    PipelineSyncBatchRequest,
    PipelineSyncRequest,
    SyncOptions,
)
from pipesync.v1.engine_service_pb2_grpc import add_EngineServiceServicer_to_server
from pipesync.v1.message_pb2 import Message, SourceInput
from pipesync.v1.state_pb2 import Eof, SyncState
from pipesync_client import EngineClient
from pipesync_server.server import RpcServer
from tests.engine_server.engine import SCRIPT, pipeline
from tests.engine_server.recorded.database import Database
from tests.engine_server.recorded.destination import (
    Recording,
    RecordingDestination,
    recordings,
)
from tests.engine_server.recorded.pipeline import ComparingSource
from tests.engine_server.scripted import (
    DestinationScript,
    SourceScript,
    destination_scripts,
    source_scripts,
)

Rpc = Literal["PipelineSync", "PipelineSyncBatch"]
RPCS: tuple[Rpc, ...] = ("PipelineSync", "PipelineSyncBatch")


@dataclass(kw_only=True)
class RecordingEngine:
    """Engine, its client, and the scripts of one pipeline."""

    client: EngineClient
    servicer: EngineServicer
    source: SourceScript = field(default_factory=SourceScript)
    destination: DestinationScript = field(default_factory=DestinationScript)
    recording: Recording = field(default_factory=Recording)

    @property
    def database(self) -> Database:
        return self.recording.database

    async def messages(
        self,
        *,
        inputs: Sequence[SourceInput] = (),
        streams: Sequence[StreamSelection] = (),
        **options: Any,
    ) -> list[Message]:
        """Return all messages of a PipelineSync with these SyncOptions."""
        request = PipelineSyncRequest(
            pipeline=pipeline(streams), options=SyncOptions(**options), inputs=inputs
        )
        return [response.message async for response in self.client.pipeline_sync(request)]

    async def sync(
        self,
        rpc: Rpc = "PipelineSyncBatch",
        *,
        inputs: Sequence[SourceInput] = (),
        streams: Sequence[StreamSelection] = (),
        **options: Any,
    ) -> Eof:
        """Return the eof of one request."""
        if rpc == "PipelineSync":
            return (await self.messages(inputs=inputs, streams=streams, **options))[-1].eof
        request = PipelineSyncBatchRequest(
            pipeline=pipeline(streams), options=SyncOptions(**options), inputs=inputs
        )
        return (await self.client.pipeline_sync_batch(request)).eof


def registry() -> ConnectorRegistry:
    sides = ((SOURCES_GROUP, ComparingSource), (DESTINATIONS_GROUP, RecordingDestination))
    points = [
        [EntryPoint("scripted", f"{each.__module__}:{each.__name__}", group)]
        for group, each in sides
    ]
    return ConnectorRegistry(*points)


@pytest.fixture
async def recording_engine() -> AsyncIterator[RecordingEngine]:
    servicer = EngineServicer(registry())
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
        engine = RecordingEngine(client=client, servicer=servicer)
        source_scripts[SCRIPT] = engine.source
        destination_scripts[SCRIPT] = engine.destination
        recordings[SCRIPT] = engine.recording
        try:
            yield engine
        finally:
            for scripts in (source_scripts, destination_scripts, recordings):
                scripts.clear()


def copied(state: SyncState) -> SyncState:
    copy = SyncState()
    copy.CopyFrom(state)
    return copy


Damage = Callable[[Database], None]
