"""Every way in which a change of a simulated account reaches a pipeline as an event."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipesync.v1.engine_service_pb2 import PipelineSyncBatchRequest, SyncOptions
from pipesync.v1.message_pb2 import RecentEvents, SourceInput, WebhookDelivery
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED, Progress
from pipesync.v1.state_pb2 import SyncState
from pipesync_client import EngineClient
from tests.end_to_end.listening import SECRET, free_port, open_sync, post, quick_engine, released
from tests.end_to_end.stripe_pipeline import StripePipeline
from tests.stripe_simulator.signatures import delivery_headers

WayIn = Literal["polling", "event_json", "webhook", "recent_events", "listener", "websocket"]
WAYS: tuple[WayIn, ...] = (
    "polling",
    "event_json",
    "webhook",
    "recent_events",
    "listener",
    "websocket",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """A pipeline whose history is read, and what brings further events into it.

    Attributes:
        apply: Makes changes, and returns once their events are in the tables.
        progress: How far the last request came that has ended.
    """

    apply: Callable[[Callable[[], Any]], Any]
    progress: Callable[[], Progress]


@asynccontextmanager
async def followed(pipeline: StripePipeline, way: WayIn) -> AsyncIterator[Followed]:
    """Reads the history of a pipeline and follows its account in one of the ways."""
    if way in ("listener", "websocket"):
        async with _listening(pipeline, way) as applied:
            yield applied
        return
    options: dict[str, dict[str, Any]] = {
        "polling": {"poll_events": True},
        "webhook": {"webhook_secret": SECRET},
    }
    configured = replace(pipeline, source={**pipeline.source, **options.get(way, {})})
    simulator = pipeline.simulator
    made: list[bytes] = []
    simulator.on_event(lambda event: made.append(event.body))
    async with quick_engine() as client:
        [first] = await configured.sync_to_the_end(client)
        state, last = first.ending_state, [first.request_progress]

        async def apply(change: Callable[[], Any]) -> None:
            nonlocal state
            made.clear()
            change()
            if way == "polling":
                eof = await configured.sync(client, state=state, events_only=True)
                state = eof.ending_state
            else:
                inputs = _inputs(way, made)
                request = PipelineSyncBatchRequest(
                    pipeline=configured.config(), options=SyncOptions(state=state), inputs=inputs
                )
                eof = (await client.pipeline_sync_batch(request)).eof
            assert eof.status == RUN_STATUS_SUCCEEDED, eof
            last.append(eof.request_progress)

        yield Followed(apply=apply, progress=lambda: last[-1])


def _inputs(way: WayIn, made: list[bytes]) -> list[SourceInput]:
    if way == "recent_events":
        return [SourceInput(recent_events=RecentEvents(limit=len(made)))]
    if way == "event_json":
        return [SourceInput(event_json=body) for body in made]
    return [
        SourceInput(webhook=WebhookDelivery(body=body, headers=delivery_headers(body, SECRET)))
        for body in made
    ]


@asynccontextmanager
async def _listening(pipeline: StripePipeline, way: WayIn) -> AsyncIterator[Followed]:
    port, simulator = free_port(), pipeline.simulator
    options: dict[str, Any] = {"webhook_port": port, "webhook_secret": SECRET}
    if way == "websocket":
        options = {"websocket": True}
    configured = replace(pipeline, source={**pipeline.source, **options})
    made: list[bytes] = []
    simulator.on_event(lambda event: made.append(event.body))
    async with quick_engine() as client:
        async with open_sync(client, configured) as sync:
            await sync.history_read()

            async def apply(change: Callable[[], Any]) -> None:
                made.clear()
                change()
                if way == "websocket":
                    await simulator.cli_sessions.settled()
                    return
                answers = await asyncio.gather(*(post(port, body) for body in made))
                assert answers == [(200, "committed")] * len(made)

            def progress() -> Progress:
                return [one.progress for one in sync.messages if one.HasField("progress")][-1]

            yield Followed(apply=apply, progress=progress)
        # The engine answers that it is over before it has closed everything.
        if way == "websocket":
            await simulator.cli_sockets.connected(0)
        else:
            await released(port)


async def read_once(
    client: EngineClient, pipeline: StripePipeline, state: SyncState | None = None
) -> Progress:
    """Reads the history, and says how far it came."""
    eof = await pipeline.sync(client, state=state)
    assert eof.status == RUN_STATUS_SUCCEEDED, eof
    return eof.request_progress
