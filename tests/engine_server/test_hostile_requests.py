"""Hostile requests get a clean response that names the field."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.rpc import code_pb2

from engine_server.connectors.registry import ConnectorRegistry
from engine_server.servicer import EngineServicer
from pipesync.v1 import engine_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Catalog, Connector, FieldPath, PipelineConfig, Stream
from pipesync.v1.engine_service_pb2_grpc import add_EngineServiceServicer_to_server
from pipesync.v1.message_pb2 import Message as Envelope
from pipesync.v1.message_pb2 import RecordBatch, StateCheckpoint, StreamStatus
from pipesync.v1.state_pb2 import SourceState
from pipesync_client import EngineClient
from pipesync_rpc.errors import RpcError
from pipesync_server.server import RpcServer
from tests.hostile import hostile_requests
from tests.messages import struct
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

_PAYLOADS = frozenset(field.name for field in Envelope.DESCRIPTOR.oneofs_by_name["payload"].fields)


@asynccontextmanager
async def serving() -> AsyncIterator[EngineClient]:
    servicer = EngineServicer(ConnectorRegistry.installed())
    async with (
        RpcServer(
            listen="127.0.0.1:0",
            register=partial(add_EngineServiceServicer_to_server, servicer),
            service_names=[pb.DESCRIPTOR.services_by_name["EngineService"].full_name],
            on_drain=servicer.request_shutdown,
            grace=1.0,
        ) as server,
        EngineClient(server.address) as client,
    ):
        yield client


@pytest.fixture
async def pipeline(database_url: str) -> AsyncIterator[PipelineConfig]:
    """Return a pipeline with a few records."""
    async with StripeSimulator(SeedPlan(counts={"customers": 2})) as simulator:
        config = PipelineConfig(
            source=Connector(
                type="stripe",
                config=struct({"api_key": simulator.api_key, "base_url": simulator.base_url}),
            ),
            destination=Connector(type="postgres", config=struct({"url": database_url})),
        )
        config.streams.add(name="customers")
        yield config


def requests(pipeline: PipelineConfig) -> dict[str, Message]:
    """Return a valid request for each RPC."""
    made: tuple[Message, ...] = (
        pb.ListConnectorsRequest(),
        pb.GetConnectorRequest(side=pb.CONNECTOR_SIDE_SOURCE, type="stripe"),
        pb.SourceDiscoverRequest(source=pipeline.source),
        pb.PipelineCheckRequest(pipeline=pipeline),
        pb.PipelineSetupRequest(pipeline=pipeline),
        pb.PipelineTeardownRequest(pipeline=pipeline),
        pb.PipelinePlanTeardownRequest(pipeline=pipeline),
        pb.PipelineReadRequest(pipeline=pipeline),
        pb.PipelineSyncRequest(pipeline=pipeline),
        pb.PipelineSyncBatchRequest(pipeline=pipeline),
        pb.PipelineRetryRejectedRequest(pipeline=pipeline),
    )
    return {type(one).__name__.removesuffix("Request"): one for one in made}


RPCS = (
    "ListConnectors",
    "GetConnector",
    "SourceDiscover",
    "PipelineCheck",
    "PipelineSetup",
    "PipelineTeardown",
    "PipelinePlanTeardown",
    "PipelineRead",
    "PipelineSync",
    "PipelineSyncBatch",
    "PipelineRetryRejected",
)


async def answer(client: EngineClient, request: Any) -> RpcError | None:
    """Return the error of a call; None if it succeeds."""
    name = type(request).__name__.removesuffix("Request")
    method = getattr(client, re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower())
    try:
        if hasattr(called := method(request), "__aiter__"):
            async with aclosing(called) as messages:
                async for _ in messages:
                    pass
        else:
            await called
    except RpcError as error:
        return error
    return None


async def write(client: EngineClient, *sent: pb.PipelineWriteRequest) -> RpcError | None:
    async def all_of_them() -> AsyncIterator[pb.PipelineWriteRequest]:
        for one in sent:
            yield one

    while True:
        try:
            async with aclosing(client.pipeline_write(all_of_them())) as messages:
                async for _ in messages:
                    pass
        except RpcError as error:
            # The caller's gRPC library reports this if it sends to a call that has just ended.
            if "Internal error from Core" not in error.message:
                return error
        else:
            return None


def test_every_rpc_is_covered() -> None:
    methods = {one.name for one in pb.DESCRIPTOR.services_by_name["EngineService"].methods}
    assert methods == {*RPCS, "PipelineWrite"}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("rpc", RPCS)
async def test_a_hostile_value_gets_a_clean_response(pipeline: PipelineConfig, rpc: str) -> None:
    faults: list[str] = []
    async with serving() as client:
        for hostile in hostile_requests(requests(pipeline)[rpc]):
            faults += filter(None, [hostile.fault(await answer(client, hostile.request))])
    assert not faults, "\n".join(faults)


WRITTEN = (
    Envelope(record_batch=RecordBatch(stream="notes", records=[b'{"id": "1"}'])),
    Envelope(source_state=StateCheckpoint(stream="notes", data="{}")),
    Envelope(stream_status=StreamStatus(stream="notes", completed=StreamStatus.Completed())),
)
CATALOG = pb.PipelineWriteRequest(
    message=Envelope(
        catalog=Catalog(
            streams=[
                Stream(
                    name="notes",
                    primary_key=[FieldPath(segments=["id"])],
                    json_schema=struct({"properties": {"text": {"type": "string"}}}),
                )
            ]
        )
    )
)


@pytest.mark.timeout(600)
async def test_a_hostile_value_is_not_written(pipeline: PipelineConfig) -> None:
    first = pb.PipelineWriteRequest(pipeline=PipelineConfig(destination=pipeline.destination))
    first.pipeline.streams.add(name="notes")
    faults: list[str] = []

    # Without a selection, every stream of the catalog is written.
    all_streams = pb.PipelineWriteRequest(pipeline=PipelineConfig(destination=pipeline.destination))
    record = pb.PipelineWriteRequest(message=WRITTEN[0])

    async def try_all(
        base: pb.PipelineWriteRequest,
        *before: pb.PipelineWriteRequest,
        after: Sequence[pb.PipelineWriteRequest] = (),
    ) -> None:
        kind = base.message.WhichOneof("payload")
        left_out = {f"message.{other}" for other in _PAYLOADS - {kind}}
        left_out.add("message" if kind is None else "pipeline")
        for hostile in hostile_requests(base, left_out=left_out):
            error = await write(client, *before, hostile.request, *after)
            faults.extend(filter(None, [hostile.fault(error)]))

    async with serving() as client:
        await try_all(first, after=[CATALOG])
        await try_all(CATALOG, all_streams, after=[record])
        for message in WRITTEN:
            await try_all(pb.PipelineWriteRequest(message=message), first, CATALOG)
    assert not faults, "\n".join(faults)


async def test_messages_that_a_caller_may_not_write_are_refused(pipeline: PipelineConfig) -> None:
    first = pb.PipelineWriteRequest(pipeline=PipelineConfig(destination=pipeline.destination))
    taken = {"record_batch", "source_state", "stream_status", "connection_status", "log", "catalog"}
    async with serving() as client:
        for name in sorted(_PAYLOADS - taken):
            message = Envelope()
            getattr(message, name).SetInParent()
            error = await write(client, first, CATALOG, pb.PipelineWriteRequest(message=message))
            assert error is not None
            assert [one.field for one in error.field_violations] == [f"message.{name}"]


BIG = 2**63 - 1
CHECKPOINTS: tuple[Any, ...] = (
    {"accounted_range": {"gte": -BIG, "lt": BIG}, "remaining": []},
    {"accounted_range": {"lt": 10**12}, "remaining": [{"gte": -(10**12), "lt": BIG}]},
    {"accounted_range": {"lt": 9}, "remaining": [{"lt": 9, "cursor": "\0\ud800"}]},
    {"accounted_range": {"lt": 9}, "remaining": [{"lt": 9, "cursor": "x" * 100_000}]},
    {"accounted_range": {"lt": 9}, "remaining": [{"lt": 9}], "record_count": BIG},
    {"accounted_range": {"lt": 9}, "remaining": [{"lt": 9}], "backfill_lt": -BIG},
    {"accounted_range": {"lt": 9, "compared_from": 1}, "remaining": None},
    {"accounted_range": {"lt": 9, "gte": 20}, "remaining": [{"gte": 20, "lt": 9}] * 3},
    {"accounted_range": None, "remaining": {}},
)
CURSORS: tuple[Any, ...] = (
    {"events": {"since": BIG}},
    {"events": {"since": -BIG}},
    {"events": {"since": 1, "applied": {str(BIG): ["\0"]}, "followed": ["\0"]}},
    {"events": {"since": 1, "behind": {"x": BIG, "customers": -BIG}}},
    {"events": {"since": 1}, "failing": {"evt_1": {}}, "handled": {"evt": 1e300}},
    {"events": {"since": 1}, "handled": {"evt": "1e5", "\0": BIG}},
    {"events": []},
    {"events": {"since": True}},
)


@pytest.mark.parametrize("reconcile", [False, True])
async def test_a_hostile_checkpoint_is_refused_or_read(
    pipeline: PipelineConfig, reconcile: bool
) -> None:
    faults: list[str] = []
    pipeline.source.config["poll_events"] = True
    states = [SourceState(streams={"customers": json.dumps(one)}) for one in CHECKPOINTS]
    states += [ParseDict({"shared": json.dumps(one)}, SourceState()) for one in CURSORS]
    async with serving() as client:
        for source in states:
            request = pb.PipelineSyncBatchRequest(pipeline=pipeline)
            request.options.state.source.CopyFrom(source)
            request.options.reconcile = reconcile
            request.options.time_limit.seconds = 5
            error = await answer(client, request)
            if error is not None and error.code in (code_pb2.INTERNAL, code_pb2.UNKNOWN):
                faults.append(f"{str(source)[:200]}: {error.message}")
            request.options.reconcile = False
            request.options.events_only = True
            error = await answer(client, request)
            if error is not None and error.code in (code_pb2.INTERNAL, code_pb2.UNKNOWN):
                faults.append(f"events: {str(source)[:200]}: {error.message}")
    assert not faults, "\n".join(faults)
