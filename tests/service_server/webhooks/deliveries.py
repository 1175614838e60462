"""Webhook deliveries as Stripe sends them, with small events."""

import itertools
from collections.abc import Sequence
from typing import Any

import orjson

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import PipelineConfig
from pipesync.v1.message_pb2 import WebhookDelivery
from pipesync_client import PipelineClient
from tests.service_server.conftest import connector
from tests.service_server.scripted_engine import ScriptedEngine
from tests.stripe_simulator.signatures import signature_header

WEBHOOK_SECRET = "whsec_planted"
_numbers = itertools.count(1)


def event(event_id: str = "", **fields: Any) -> bytes:
    """Return the JSON of an event."""
    made = {
        "id": event_id or f"evt_{next(_numbers)}",
        "type": "customer.updated",
        "created": 1_700_000_000,
        **fields,
    }
    return orjson.dumps(made)


def headers(body: bytes, secret: str = WEBHOOK_SECRET) -> dict[str, str]:
    """Return the headers of a delivery of ``body`` that is signed now."""
    return {"stripe-signature": signature_header(body, secret)}


def delivery(body: bytes, secret: str = WEBHOOK_SECRET) -> WebhookDelivery:
    return WebhookDelivery(body=body, headers=headers(body, secret))


async def push(
    client: PipelineClient, body: bytes, secret: str = WEBHOOK_SECRET, *, to: str = "hooked"
) -> pb.PushWebhookResponse:
    """Deliver one event by RPC."""
    request = pb.PushWebhookRequest(pipeline_id=to, delivery=delivery(body, secret))
    return await client.push_webhook(request)


def hooked(pipeline_id: str = "hooked", secret: str = WEBHOOK_SECRET) -> pb.Pipeline:
    """Return a pipeline that accepts webhooks."""
    config = PipelineConfig(source=connector(webhook_secret=secret), destination=connector())
    return pb.Pipeline(id=pipeline_id, config=config)


async def create(client: PipelineClient, pipeline: pb.Pipeline) -> pb.Pipeline:
    request = pb.CreatePipelineRequest(pipeline=pipeline, skip_check=True)
    return (await client.create_pipeline(request)).pipeline


def sent_ids(engine: ScriptedEngine) -> list[list[str]]:
    """Return the ids of the events in each batch that the engine received."""
    return [
        [event_id(given.event_json) for given in request.inputs]
        for request in engine.requests
        if isinstance(request, engine_pb.PipelineSyncBatchRequest) and request.inputs
    ]


def event_id(body: bytes) -> str:
    return str(orjson.loads(body)["id"])


async def statuses(client: PipelineClient, *, of: str = "hooked") -> dict[str, str]:
    """Return the status of each event, the first arrival first."""
    answer = await client.list_webhook_events(
        pb.ListWebhookEventsRequest(pipeline_id=of, page_size=1000)
    )
    return {one.id: _word(one.status) for one in reversed(answer.events)}


def _word(status: pb.WebhookEventStatus.ValueType) -> str:
    return pb.WebhookEventStatus.Name(status).removeprefix("WEBHOOK_EVENT_STATUS_").lower()


def ids(bodies: Sequence[bytes]) -> list[str]:
    return [event_id(body) for body in bodies]
