"""Tests that a request of any size does not block other calls."""

from collections.abc import AsyncIterator, Callable

import pytest
from google.protobuf.message import Message

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync_client import PipelineClient
from service_server.bootstrap import running_service
from service_server.settings.service import ServiceSettings
from tests.loop_blocks import assert_no_long_block, longest_block
from tests.service_server.conftest import connector, pipeline
from tests.service_server.webhooks.deliveries import create, delivery, event, hooked

SERVICE = "/pipesync.v1.PipelineService/"


def _new(streams: int, *, fields: int = 0, settings: int = 0) -> pb.CreatePipelineRequest:
    request = pb.CreatePipelineRequest(pipeline=pipeline("new"), skip_check=True)
    for number in range(streams):
        selection = request.pipeline.config.streams.add(name=f"stream{number}")
        selection.fields.extend(f"field{place}" for place in range(fields))
    source = request.pipeline.config.source
    source.config.update({f"setting{number}": number for number in range(settings)})
    return request


def _update(paths: int) -> pb.UpdatePipelineRequest:
    request = pb.UpdatePipelineRequest(pipeline=hooked())
    request.update_mask.paths.extend(f"config.sourc{number}" for number in range(paths))
    return request


def _masks() -> pb.CreatePipelineRequest:
    request = _new(1)
    request.pipeline.config.source.config["api_key"] = {f"x{n}": "********" for n in range(9_000)}
    return request


def _state() -> pb.SyncPipelineBatchRequest:
    request = pb.SyncPipelineBatchRequest(pipeline_id="hooked")
    state = request.overrides.state
    for number in range(10_000):
        state.positions[f"s{number}"].number = number
        state.source.streams[f"s{number}"] = "{" * 100
        state.sync_run.progress.streams[f"s{number}"].completed_ranges.add().lt.seconds = 5
    return request


def _headers(count: int) -> pb.PushWebhookRequest:
    request = pb.PushWebhookRequest(pipeline_id="hooked", delivery=delivery(event()))
    request.delivery.headers.update({f"x-{number}": "x" for number in range(count)})
    return request


NESTED = b'{"id": "evt_1", "type": "x", "created": 1, "x": ' + b"[" * 900_000

# Made by the test: they are large.
REQUESTS: dict[str, Callable[[], Message]] = {
    "1,000 streams": lambda: _new(1_000),
    "300,000 streams": lambda: _new(300_000),
    "fields of many streams": lambda: _new(1_000, fields=10),
    "300,000 fields": lambda: _new(300, fields=1_000),
    "9,000 settings": lambda: _new(1, settings=9_000),
    "100,000 settings": lambda: _new(1, settings=100_000),
    "many masks": lambda: _masks(),
    "a long setting": lambda: pb.CreatePipelineRequest(
        pipeline=pb.Pipeline(config=pipeline("").config, id="x" * 5_000_000)
    ),
    "a long type": lambda: pb.DiscoverSourceRequest(source=connector("x" * 5_000_000)),
    "100,000 paths": lambda: _update(100_000),
    "100 paths": lambda: _update(100),
    "1,000 events": lambda: pb.ReplayWebhookEventsRequest(
        pipeline_id="hooked", event_ids=[f"evt_{number:0240}" for number in range(1_000)]
    ),
    "300,000 events": lambda: pb.ReplayWebhookEventsRequest(
        pipeline_id="hooked", event_ids=[f"evt_{number}" for number in range(300_000)]
    ),
    "a long token": lambda: pb.ListPipelinesRequest(page_token="W1tb" * 1_000_000),
    "a nested token": lambda: pb.ListPipelinesRequest(page_token="W1tb" * 1_000),
    "a long id": lambda: pb.GetPipelineRequest(pipeline_id="x" * 10_000_000),
    "a long run id": lambda: pb.SyncPipelineBatchRequest(
        pipeline_id="hooked", run_id="x" * 10_000_000
    ),
    "a large state": lambda: _state(),
    "100,000 headers": lambda: _headers(100_000),
    "a large delivery": lambda: pb.PushWebhookRequest(
        pipeline_id="hooked", delivery=delivery(b"x" * 10_000_000)
    ),
    "a nested delivery": lambda: pb.PushWebhookRequest(
        pipeline_id="hooked", delivery=delivery(NESTED)
    ),
}


@pytest.fixture
async def address(settings: ServiceSettings) -> AsyncIterator[str]:
    async with running_service(settings) as service, PipelineClient(service.address) as client:
        await create(client, hooked())
        yield service.address


@pytest.mark.parametrize("made", REQUESTS.values(), ids=REQUESTS.keys())
async def test_a_request_blocks_no_other_call(address: str, made: Callable[[], Message]) -> None:
    request_ = made()
    method = SERVICE + type(request_).__name__.removesuffix("Request")
    # The first call loads modules, which is not to be measured.
    await longest_block(address, method, type(request_)())
    await assert_no_long_block(address, method, request_)
