"""Tests that hostile requests are answered with an error that names the field."""

import re
from contextlib import aclosing
from typing import Any

import pytest
from google.protobuf.message import Message

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import StreamSelection
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from tests.hostile import hostile_requests
from tests.service_server.conftest import connector, pipeline
from tests.service_server.webhooks.deliveries import create, delivery, event, hooked

# Output-only fields, which are ignored.
_IGNORED = tuple(
    f"pipeline.{name}"
    for name in (
        "status",
        "status_message",
        "sync_state",
        "progress",
        "create_time",
        "update_time",
    )
)


def _update() -> pb.UpdatePipelineRequest:
    request = pb.UpdatePipelineRequest(pipeline=pipeline("hooked"))
    request.pipeline.config.streams.add(name="customers")
    request.pipeline.desired_status = pb.DESIRED_STATUS_ACTIVE
    request.update_mask.paths.extend(
        ["config.source", "config.destination", "config.streams", "desired_status", "sync_policy"]
    )
    return request


def _sync(request: Any) -> Any:
    request.pipeline_id = "hooked"
    request.overrides.source.CopyFrom(connector())
    request.overrides.destination.CopyFrom(connector())
    request.overrides.streams.append(StreamSelection(name="customers"))
    return request


REQUESTS: tuple[Message, ...] = (
    pb.ListPipelineConnectorsRequest(),
    pb.DiscoverSourceRequest(pipeline_id="hooked"),
    pb.DiscoverSourceRequest(source=connector()),
    pb.CreatePipelineRequest(pipeline=pipeline("")),
    pb.GetPipelineRequest(pipeline_id="hooked"),
    pb.ListPipelinesRequest(),
    _update(),
    pb.DeletePipelineRequest(pipeline_id="absent"),
    pb.CheckPipelineRequest(pipeline_id="hooked"),
    pb.SetupPipelineRequest(pipeline_id="hooked"),
    pb.TeardownPipelineRequest(pipeline_id="hooked"),
    _sync(pb.SyncPipelineRequest()),
    _sync(pb.SyncPipelineBatchRequest()),
    pb.SimulateWebhookSyncRequest(pipeline_id="hooked"),
    pb.PushWebhookRequest(pipeline_id="hooked", delivery=delivery(event())),
    pb.ListWebhookEventsRequest(pipeline_id="hooked"),
    pb.ReplayWebhookEventsRequest(pipeline_id="hooked", all_dead_lettered=False),
    pb.ListRunsRequest(pipeline_id="hooked"),
    pb.WatchPipelineRequest(pipeline_id="hooked"),
    pb.RetryRejectedRecordsRequest(pipeline_id="hooked"),
)


@pytest.fixture
async def taking(client: PipelineClient) -> PipelineClient:
    await create(client, hooked())
    return client


async def answer(client: PipelineClient, request: Any) -> RpcError | None:
    """Make a call, and return its error; None for success."""
    name = type(request).__name__.removesuffix("Request")
    method = getattr(client, re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower())
    try:
        if hasattr(called := method(request), "__aiter__"):
            async with aclosing(called) as messages:
                async for _ in messages:
                    if isinstance(request, pb.WatchPipelineRequest):
                        break
        else:
            await called
    except RpcError as error:
        return error
    return None


def test_every_rpc_is_tested() -> None:
    methods = pb.DESCRIPTOR.services_by_name["PipelineService"].methods
    assert {type(request).DESCRIPTOR.name for request in REQUESTS} == {
        method.input_type.name for method in methods
    }


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "request_", REQUESTS, ids=[f"{type(one).__name__}{n}" for n, one in enumerate(REQUESTS)]
)
async def test_a_hostile_value_is_answered_cleanly(
    taking: PipelineClient, request_: Message
) -> None:
    faults: list[str] = []
    for hostile in hostile_requests(request_, left_out=_IGNORED):
        faults += filter(None, [hostile.fault(await answer(taking, hostile.request))])
    assert not faults, "\n".join(faults)
