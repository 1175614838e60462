"""Every way in for events: one pipeline whose tables follow an account by it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, Literal, get_args

import orjson

from pipesync.v1.engine_service_pb2 import PipelineSyncBatchRequest
from pipesync.v1.message_pb2 import RecentEvents, SourceInput, WebhookDelivery
from pipesync_client import EngineClient
from tests.end_to_end.listening import free_port, open_sync, released
from tests.end_to_end.stripe_pipeline import StripePipeline
from tests.messages import struct
from tests.stripe_simulator.signatures import delivery_headers

Pushed = Literal["event", "event_json", "webhook"]
WayIn = Literal["poll", "event", "event_json", "webhook", "recent_events", "listener", "websocket"]
PUSHED: tuple[Pushed, ...] = get_args(Pushed)
WAYS_IN: tuple[WayIn, ...] = get_args(WayIn)
# A protobuf Struct has 64-bit floats for numbers, and no lone surrogates.
EXACT_WAYS_IN: tuple[WayIn, ...] = tuple(way_in for way_in in WAYS_IN if way_in != "event")

_SECRET = "whsec_pushed"

# Returns once all events so far are applied.
Apply = Callable[[], Awaitable[None]]


def following(
    client: EngineClient, pipeline: StripePipeline, way_in: WayIn
) -> AbstractAsyncContextManager[Apply, bool | None]:
    """Read the history, and yield a function that applies the events made in the block so far."""
    return _FOLLOW[way_in](client, pipeline, way_in)


def pushed_as(way_in: WayIn, body: bytes) -> SourceInput:
    """Return an event as an input of a sync."""
    match way_in:
        case "event":
            return SourceInput(event=struct(orjson.loads(body)))
        case "event_json":
            return SourceInput(event_json=body)
        case _:
            headers = delivery_headers(body, _SECRET)
            return SourceInput(webhook=WebhookDelivery(body=body, headers=headers))


async def push(client: EngineClient, pipeline: StripePipeline, *inputs: SourceInput) -> None:
    """Apply inputs in one request."""
    with_secret = replace(pipeline, source={**pipeline.source, "webhook_secret": _SECRET})
    request = PipelineSyncBatchRequest(pipeline=with_secret.config(), inputs=inputs)
    eof = (await client.pipeline_sync_batch(request)).eof
    assert not eof.failure_message, eof.failure_message


@asynccontextmanager
async def _polled(
    client: EngineClient, pipeline: StripePipeline, _way_in: WayIn
) -> AsyncIterator[Apply]:
    polling = replace(pipeline, source={**pipeline.source, "poll_events": True})
    state = (await polling.sync_to_the_end(client))[-1].ending_state

    async def apply() -> None:
        nonlocal state
        eof = await polling.sync(client, state=state, events_only=True)
        assert not eof.failure_message, eof.failure_message
        state = eof.ending_state

    yield apply


@asynccontextmanager
async def _pushed(
    client: EngineClient, pipeline: StripePipeline, way_in: WayIn
) -> AsyncIterator[Apply]:
    await pipeline.sync_to_the_end(client)
    bodies: list[bytes] = []
    pipeline.simulator.on_event(lambda event: bodies.append(event.body))

    async def apply() -> None:
        await push(client, pipeline, *(pushed_as(way_in, body) for body in bodies))
        bodies.clear()

    yield apply


@asynccontextmanager
async def _recent(
    client: EngineClient, pipeline: StripePipeline, _way_in: WayIn
) -> AsyncIterator[Apply]:
    await pipeline.sync_to_the_end(client)

    async def apply() -> None:
        await push(client, pipeline, SourceInput(recent_events=RecentEvents()))

    yield apply


@asynccontextmanager
async def _listened(
    client: EngineClient, pipeline: StripePipeline, way_in: WayIn
) -> AsyncIterator[Apply]:
    simulator = pipeline.simulator
    source: dict[str, Any] = {"websocket": True}
    settled = simulator.cli_sessions.settled
    port = 0
    if way_in == "listener":
        port = free_port()
        endpoint = simulator.register_webhook(f"http://127.0.0.1:{port}/stripe")
        source = {"webhook_port": port, "webhook_secret": endpoint["secret"]}
        settled = simulator.deliveries.settled
    listening = replace(pipeline, source={**pipeline.source, **source})
    async with open_sync(client, listening) as sync:
        await sync.history_read()
        yield settled
    # Wait until the engine has disconnected, before the account is closed.
    if way_in == "listener":
        await released(port)
    else:
        await simulator.cli_sockets.connected(0)


_Follow = Callable[
    [EngineClient, StripePipeline, WayIn], AbstractAsyncContextManager[Apply, bool | None]
]
_FOLLOW: Mapping[WayIn, _Follow] = {
    "poll": _polled,
    "event": _pushed,
    "event_json": _pushed,
    "webhook": _pushed,
    "recent_events": _recent,
    "listener": _listened,
    "websocket": _listened,
}
