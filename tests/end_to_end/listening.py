"""Syncs that stay open and follow the events of a simulated account, by webhook or WebSocket."""

import asyncio
import io
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import aiohttp
import orjson

from engine_server.connectors.registry import DESTINATIONS_GROUP, SOURCES_GROUP, ConnectorRegistry
from engine_server.connectors.stripe.api.retry import RetryPolicy
from engine_server.connectors.stripe.events.intervals import ListeningIntervals
from engine_server.connectors.stripe.source import StripeSource
from pipesync.v1.engine_service_pb2 import PipelineSyncRequest, SyncOptions
from pipesync.v1.message_pb2 import Message
from pipesync.v1.state_pb2 import Eof
from pipesync_client import EngineClient
from tests.end_to_end.stripe_pipeline import StripePipeline, served_engine
from tests.engine_server.connectors.stripe.events.builders import Document
from tests.stripe_simulator.signatures import delivery_headers

SECRET = "whsec_listening"
QUICK_INTERVALS = ListeningIntervals(
    answer_within=5,
    work_patience=0.3,
    first_put_off=0.02,
    longest_put_off=0.1,
    ping_interval=0.05,
    pong_patience=0.5,
    connect_interval=0.05,
)


def quick_stripe_source() -> StripeSource:
    """Return a source that retries as the installed one does, but sooner."""
    return StripeSource(
        RetryPolicy(attempts=3, first_delay=0.001, longest_delay=0.01), QUICK_INTERVALS
    )


def quick_engine() -> AbstractAsyncContextManager[EngineClient]:
    """Serve an engine with the source above in this process, and yield a client of it."""
    source = f"{__name__}:{quick_stripe_source.__name__}"
    return served_engine(
        ConnectorRegistry(
            [EntryPoint("stripe", source, SOURCES_GROUP)], entry_points(group=DESTINATIONS_GROUP)
        )
    )


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


async def released(port: int) -> None:
    """Wait until the port is free again; fail after one second."""
    async with asyncio.timeout(1):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                return
            writer.close()
            await asyncio.sleep(0.01)


async def until_logged(logs: Sequence[Mapping[str, Any]], event: str) -> None:
    """Wait until the event is among those that structlog captures for a test."""
    async with asyncio.timeout(10):
        while all(line["event"] != event for line in logs):  # noqa: ASYNC110 - they are only a list
            await asyncio.sleep(0)


@dataclass(kw_only=True)
class OpenSync:
    """A PipelineSync under way.

    Attributes:
        messages: The messages received so far.
    """

    messages: list[Message] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _ended: bool = False

    async def follow(self, answers: AsyncIterator[Any]) -> None:
        """Record the messages, to the end."""
        try:
            async for answer in answers:
                self.messages.append(answer.message)
                self._tell()
        finally:
            self._ended = True
            self._tell()

    async def until(self, seen: Callable[[Message], bool]) -> Message:
        """Return the first message that meets the condition, among past and future ones."""
        while True:
            for message in self.messages:
                if seen(message):
                    return message
            assert not self._ended, f"it ended before: {self.messages[-3:]}"
            await self._changed.wait()

    async def history_read(self) -> None:
        """Wait until every stream is read and the sync only listens."""
        streams = {status.stream for status in self._turns("started")}
        while not streams or streams != {status.stream for status in self._turns("completed")}:
            assert not self._ended, f"it ended before: {self.messages[-3:]}"
            await self._changed.wait()
            streams = {status.stream for status in self._turns("started")}

    async def eof(self) -> Eof:
        """Wait for the Eof and return it."""
        return (await self.until(lambda message: message.HasField("eof"))).eof

    def _turns(self, turn: str) -> list[Any]:
        statuses = [one.stream_status for one in self.messages if one.HasField("stream_status")]
        return [status for status in statuses if status.WhichOneof("status") == turn]

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


@asynccontextmanager
async def open_sync(
    client: EngineClient, pipeline: StripePipeline, **options: Any
) -> AsyncIterator[OpenSync]:
    """Open a PipelineSync that is cancelled at the end of the block, unless it ended before."""
    request = PipelineSyncRequest(pipeline=pipeline.config(), options=SyncOptions(**options))
    sync = OpenSync()
    following = asyncio.create_task(sync.follow(aiter(client.pipeline_sync(request))))
    try:
        yield sync
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following


async def post(
    port: int,
    body: Document | bytes,
    *,
    secret: str = SECRET,
    method: str = "POST",
    headers: dict[str, str] | None = None,
) -> tuple[int, str]:
    """Deliver a webhook as Stripe does, and return the status and the text of the answer."""
    sent = body if isinstance(body, bytes) else orjson.dumps(body)
    signed = delivery_headers(sent, secret) if headers is None else headers
    async with (
        aiohttp.ClientSession() as http,
        http.request(
            method, f"http://127.0.0.1:{port}/stripe", data=io.BytesIO(sent), headers=signed
        ) as response,
    ):
        return response.status, await response.text()
