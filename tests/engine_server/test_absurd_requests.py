"""Huge requests do not block other calls of the engine."""

import gc
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from engine_server.connectors.registry import ConnectorRegistry
from engine_server.servicer import EngineServicer
from pipesync.v1 import engine_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig
from pipesync.v1.engine_service_pb2_grpc import add_EngineServiceServicer_to_server
from pipesync.v1.state_pb2 import SyncState
from pipesync_server.server import RpcServer
from tests.loop_blocks import assert_no_long_block, longest_block
from tests.messages import struct
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

SERVICE = "/pipesync.v1.EngineService/"
Request = pb.PipelineCheckRequest | pb.PipelineSyncBatchRequest


@pytest.fixture(autouse=True)
def collections() -> None:
    """Freeze existing objects for the garbage collector, as the program does."""
    gc.collect()
    gc.freeze()


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    servicer = EngineServicer(ConnectorRegistry.installed())
    async with RpcServer(
        listen="127.0.0.1:0",
        register=partial(add_EngineServiceServicer_to_server, servicer),
        service_names=[pb.DESCRIPTOR.services_by_name["EngineService"].full_name],
        on_drain=servicer.request_shutdown,
        grace=1.0,
    ) as server:
        yield server.address


def config(source: dict[str, object], destination: dict[str, object]) -> PipelineConfig:
    return PipelineConfig(
        source=Connector(type="stripe", config=struct(source)),
        destination=Connector(type="postgres", config=struct(destination)),
    )


def streams(count: int, *, fields: int = 0, name: str = "custmers{}") -> Callable[..., None]:
    def spoil(request: Request) -> None:
        del request.pipeline.streams[:]
        for number in range(count):
            selection = request.pipeline.streams.add(name=name.format(number))
            selection.fields.extend(f"emial{place}" for place in range(fields))

    return spoil


def source_config(**fields: Any) -> Callable[..., None]:
    def spoil(request: Request) -> None:
        request.pipeline.source.config.update(fields)

    return spoil


def state(change: Callable[[SyncState], None]) -> Callable[..., None]:
    def spoil(request: Request) -> None:
        assert isinstance(request, pb.PipelineSyncBatchRequest)
        change(request.options.state)

    return spoil


def many_progresses(made: SyncState) -> None:
    made.sync_run.time_ceiling.GetCurrentTime()
    for number in range(10_000):
        one = made.sync_run.progress.streams[f"s{number}"]
        one.record_count = 1
        one.total_range.gte.seconds = 1
        one.completed_ranges.add().lt.seconds = 5


def many_ranges(made: SyncState) -> None:
    made.sync_run.time_ceiling.GetCurrentTime()
    for number in range(10_000):
        part = made.sync_run.progress.streams["customers"].completed_ranges.add()
        part.gte.seconds, part.lt.seconds = 3 * number, 3 * number + 1


def many_positions(made: SyncState) -> None:
    for number in range(10_000):
        made.positions[f"s{number}"].number = number
        made.stream_schemas[f"s{number}"] = "x" * 100
        made.source.streams[f"s{number}"] = "{" * 100


def many_remaining(made: SyncState) -> None:
    made.source.streams["customers"] = json.dumps(
        {
            "accounted_range": {"lt": 10**9},
            "remaining": [{"gte": 2 * n, "lt": 2 * n + 1} for n in range(100_000)],
        }
    )


def long_texts(made: SyncState) -> None:
    made.source.streams["customers"] = "[" * 5_000_000
    made.source.shared = '{"a": ' + "[" * 5_000_000
    made.destination = "x" * 5_000_000


def inputs(count: int, size: int, *, signed: bool = False) -> Callable[..., None]:
    def spoil(request: Request) -> None:
        assert isinstance(request, pb.PipelineSyncBatchRequest)
        for number in range(count):
            body = b'{"id": "evt_%d", "type": "x", "created": 1, "data": {"object": {"a": "%b"}}}'
            given = request.inputs.add()
            if signed:
                given.webhook.body = body % (number, b"x" * size)
                given.webhook.headers["stripe-signature"] = "t=1,v1=0"
            else:
                given.event_json = body % (number, b"x" * size)

    return spoil


def destination_config(**fields: Any) -> Callable[..., None]:
    def spoil(request: Request) -> None:
        request.pipeline.destination.config.Clear()
        request.pipeline.destination.config.update(fields)

    return spoil


LISTS = "[" + "[]," * 340_000 + "[]]"
FLOATS = "[" + "0.1," * 130_000 + "1]"
COMBINING = "\u0327\u0323" * 100_000


def many_lists(made: SyncState) -> None:
    made.source.streams["customers"] = LISTS
    made.source.streams["products"] = LISTS
    made.source.shared = LISTS
    made.destination = LISTS


def more_lists(made: SyncState) -> None:
    made.source.streams["customers"] = "[" + LISTS * 15 + "[]]"


def values(text: str, count: int) -> Callable[..., None]:
    def spoil(request: Request) -> None:
        assert isinstance(request, pb.PipelineSyncBatchRequest)
        held = '{"id": "cus_%d", "object": "customer", "created": 1, "name": "\\ud800", "l": %s}'
        event = '{"id": "evt_%d", "type": "customer.updated", "created": 1, "data": {"object": %s}}'
        for number in range(count):
            request.inputs.add().event_json = (event % (number, held % (number, text))).encode()

    return spoil


def struct_values(request: Request) -> None:
    assert isinstance(request, pb.PipelineSyncBatchRequest)
    for number in range(20):
        event: dict[str, Any] = {
            "id": f"evt_{number}",
            "type": "x",
            "created": 1,
            "data": [[]] * 49_000,
        }
        request.inputs.add().event.update(event)


def many_secrets(request: Request) -> None:
    request.pipeline.source.config["webhook_secret"] = ",".join(["aa"] * 100_000)
    inputs(20, 1_000, signed=True)(request)


CHECKS = {
    "a long host of base_url": source_config(base_url="https://a" + COMBINING),
    "many labels of base_url": source_config(base_url="https://" + "é." * 100_000),
    "a long webhook_url": source_config(webhook_url="https://a" + COMBINING),
    "many webhook secrets": source_config(webhook_secret=",".join(["aa"] * 200_000)),
    "a long host": destination_config(host="a" + COMBINING),
    "a long host of a url": destination_config(url="postgresql://a" + COMBINING),
    "many hosts": destination_config(
        url=f"postgresql://u:p@{','.join(f'h{number}' for number in range(100_000))}/d"
    ),
    "many escapes in a url": destination_config(url="postgresql://" + "%41" * 300_000),
    "many certificates": destination_config(
        host="h", ssl_ca_pem="-----BEGIN CERTIFICATE-----\n" * 9_000
    ),
    "10,000 unknown streams": streams(10_000),
    "300,000 unknown streams": streams(300_000),
    "1,000 unknown streams": streams(1_000),
    "long unknown streams": streams(1_000, name="c" * 240 + "{}"),
    "one stream again and again": streams(1_000, name="customers"),
    "unknown fields of one stream": streams(1, fields=1_000, name="customers"),
    "unknown fields of many streams": streams(1_000, fields=10, name="customers"),
    "300,000 unknown fields": streams(300, fields=1_000),
    "9,000 unknown settings": source_config(**{f"api_kee{n}": n for n in range(9_000)}),
    "100,000 unknown settings": source_config(**{f"api_kee{n}": n for n in range(100_000)}),
    "a long list in a setting": source_config(
        revalidate_objects=[f"custmer{n}" for n in range(9_000)]
    ),
    "a long setting": source_config(api_key="sk_" + "x" * 900_000, api_version="2" * 100_000),
    "a long name of a setting": source_config(**{"x" * 900_000: 1}),
}
SYNCS = {
    "checkpoints of many values": state(many_lists),
    "a checkpoint of more values than are taken": state(more_lists),
    "events of many lists": values(LISTS, 3),
    "events of many numbers": values(FLOATS, 3),
    "events of many values": struct_values,
    "more secrets than are taken": many_secrets,
    "many progresses": state(many_progresses),
    "many completed ranges": state(many_ranges),
    "many positions": state(many_positions),
    "many ranges to be read": state(many_remaining),
    "long checkpoints": state(long_texts),
    "many events": inputs(1_000, 1_000),
    "large events": inputs(10, 2_000_000),
    "many deliveries": inputs(1_000, 1_000, signed=True),
    "large deliveries": inputs(10, 2_000_000, signed=True),
    "more events than are taken": inputs(100_000, 10),
}


@pytest.mark.parametrize("spoil", CHECKS.values(), ids=CHECKS.keys())
async def test_a_check_blocks_no_other_call(spoil: Callable[..., None]) -> None:
    request = pb.PipelineCheckRequest(
        pipeline=config({"api_key": "sk_test_1"}, {"url": "postgresql://u@127.0.0.1:1/x"}),
        validate_only=True,
    )
    async with serving() as address:
        # The first call loads modules, which is not caused by the request.
        await longest_block(address, f"{SERVICE}PipelineCheck", request)
        spoil(request)
        await assert_no_long_block(address, f"{SERVICE}PipelineCheck", request)


@pytest.mark.parametrize("spoil", SYNCS.values(), ids=SYNCS.keys())
async def test_a_sync_blocks_no_other_call(spoil: Callable[..., None], database_url: str) -> None:
    async with (
        StripeSimulator(SeedPlan(counts={"customers": 2})) as simulator,
        serving() as address,
    ):
        source: dict[str, object] = {
            "api_key": simulator.api_key,
            "base_url": simulator.base_url,
            "webhook_secret": "whsec_test",
        }
        request = pb.PipelineSyncBatchRequest(pipeline=config(source, {"url": database_url}))
        request.pipeline.streams.add(name="customers")
        request.options.time_limit.seconds = 5
        await longest_block(address, f"{SERVICE}PipelineSyncBatch", request)
        spoil(request)
        await assert_no_long_block(address, f"{SERVICE}PipelineSyncBatch", request)


def catalog(count: int, *, properties: int = 0, keys: int = 1) -> pb.PipelineWriteRequest:
    request = pb.PipelineWriteRequest()
    for number in range(count):
        stream = request.message.catalog.streams.add(name=f"s{number}")
        for _ in range(keys):
            stream.primary_key.add(segments=["id"])
        declared = {f"p{place}": {"type": "string"} for place in range(properties)}
        stream.json_schema.update({"properties": declared})
    return request


def records(*texts: str, stream: str = "s0") -> pb.PipelineWriteRequest:
    request = pb.PipelineWriteRequest()
    request.message.record_batch.stream = stream
    request.message.record_batch.records.extend(text.encode() for text in texts)
    return request


def written_state(text: str) -> pb.PipelineWriteRequest:
    request = pb.PipelineWriteRequest()
    request.message.source_state.stream = "s0"
    request.message.source_state.data = text
    return request


ROW = '{"id": "\\ud800", "l": %s}'
SMALL = catalog(1)
SMALL.message.catalog.streams[0].json_schema.update({"properties": {"l": {"type": "array"}}})
# Made by the test: they are large.
WRITES: dict[str, Callable[[], list[pb.PipelineWriteRequest]]] = {
    "records of many lists": lambda: [SMALL, records(*[ROW % LISTS] * 5)],
    "records of many numbers": lambda: [SMALL, records(*[ROW % FLOATS] * 5)],
    "a record of many lists": lambda: [SMALL, records(ROW % ("[" + LISTS * 15 + "[]]"))],
    "many small records": lambda: [SMALL, records(*(f'{{"id": {n}}}' for n in range(200_000)))],
    "a checkpoint of many lists": lambda: [SMALL, written_state(LISTS)],
    "a checkpoint of more lists": lambda: [SMALL, written_state("[" + LISTS * 15 + "[]]")],
    "many properties": lambda: [catalog(1, properties=2_000)],
    "more properties than are taken": lambda: [catalog(1, properties=100_000)],
    "many streams": lambda: [catalog(1_000, properties=20)],
    "more streams than are taken": lambda: [catalog(10_000, properties=5)],
    "many keys": lambda: [catalog(1_000, keys=32)],
}


@pytest.mark.parametrize("made", WRITES.values(), ids=WRITES.keys())
@pytest.mark.parametrize("fields", [[], ["l"]], ids=["whole", "in part"])
async def test_a_write_blocks_no_other_call(
    made: Callable[[], list[pb.PipelineWriteRequest]], fields: list[str], database_url: str
) -> None:
    sent = made()
    first = pb.PipelineWriteRequest(pipeline=config({}, {"url": database_url}))
    first.pipeline.ClearField("source")
    if fields:
        first.pipeline.streams.add(name="s0", fields=fields)
    async with serving() as address:
        method = f"{SERVICE}PipelineWrite"
        await longest_block(address, method, first, SMALL)
        await assert_no_long_block(address, method, first, *sent)
