"""Receives events over the Stripe CLI's WebSocket, without a public address.

Rules: https://github.com/stripe/stripe-cli, pkg/websocket (the frames, and ``Run``) and pkg/proxy
(the responses). The CLI acknowledges an event when it arrives; here, once it is committed. It is
not documented whether Stripe resends unacknowledged events. Events without a known session are
never sent: polling makes up for them.
"""

import asyncio
import time
from functools import partial
from types import TracebackType
from typing import Any, Self

import structlog

from engine_server import exact_json
from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.events.event import NotAnEvent, log_event
from engine_server.connectors.stripe.events.ingress.cli_connection import (
    NotConnected,
    SessionExpired,
    WebSocketClient,
    WebSocketSession,
    connect,
)
from engine_server.connectors.stripe.events.ingress.cli_session import CliSession
from engine_server.connectors.stripe.events.ingress.deliveries import open_delivery
from engine_server.connectors.stripe.events.ingress.event_queue import Acknowledger, EventQueue
from engine_server.connectors.stripe.events.intervals import ListeningIntervals
from engine_server.errors import ConnectionFailed
from pipesync_server.webhook_signature import SIGNATURE_HEADER, BadSignature

_log = structlog.get_logger(__name__)

# Attempts at the first connection. If it fails, the network is the probable cause.
_FIRST_ATTEMPTS = 3


class CliWebSocket:
    """Async context manager that is connected while it is open, and reconnects when needed."""

    def __init__(
        self,
        client: StripeClient,
        config: StripeConfig,
        queue: EventQueue,
        intervals: ListeningIntervals,
    ) -> None:
        """Store the arguments; no connection is opened yet."""
        self._client = client
        self._reach = config.reach
        self._plain = config.base_url.startswith("http://")
        self._queue = queue
        self._intervals = intervals
        self._websocket = WebSocketSession(intervals)
        self._connected = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            ConnectionFailed: Stripe gives no session, or cannot be connected to.
        """
        self._http = WebSocketClient(self._reach)
        self._running = asyncio.create_task(self._run())
        connected = asyncio.create_task(self._connected.wait())
        try:
            await asyncio.wait([self._running, connected], return_when=asyncio.FIRST_COMPLETED)
            if not self._connected.is_set():
                self._running.result()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        finally:
            connected.cancel()
        self._running.add_done_callback(self._tell)
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await self._http.close()

    def _tell(self, running: asyncio.Task[None]) -> None:
        if not running.cancelled() and (error := running.exception()) is not None:
            self._queue.fail(error if isinstance(error, Exception) else RuntimeError(str(error)))

    async def _run(self) -> None:
        """Keep a connection open, and replace it whenever it is lost.

        Raises:
            ConnectionFailed: The first connection fails, or the key is refused.
        """
        session: CliSession | None = None
        failures = 0
        while True:
            try:
                if session is None:
                    session = await CliSession.create(self._client)
                socket = await connect(self._http, session, plain=self._plain)
            except (RequestFailed, NotConnected) as error:
                failures += 1
                is_first = not self._connected.is_set()
                if is_first and (failures >= _FIRST_ATTEMPTS or isinstance(error, RequestFailed)):
                    raise ConnectionFailed(f"the WebSocket cannot be opened: {error}") from error
                if isinstance(error, SessionExpired):
                    session = None
                    self._websocket.discard_unsent()
                _log.warning("websocket_not_connected", error=str(error), attempt=failures)
                # A session that worked before is renewed at once.
                if failures > 1 or not isinstance(error, SessionExpired):
                    await asyncio.sleep(self._intervals.connect_interval)
                continue
            failures = 0
            _log.info("websocket_connected")
            self._connected.set()
            began = time.monotonic()
            receive = partial(self._receive, session)
            reason = await self._websocket.run(socket, receive, reset_after=session.reconnect_delay)
            if reason:
                _log.warning("websocket_lost", reason=reason)
            # A connection that is lost at once counts as a failed one.
            if time.monotonic() - began < self._intervals.ping_interval:
                await asyncio.sleep(self._intervals.connect_interval)

    async def _receive(self, session: CliSession, message: bytes) -> None:
        try:
            frame = exact_json.decode(message)
        except ValueError:
            frame = None
        match frame:
            case {"type": "webhook_event", "event_payload": str(payload)}:
                endpoint = frame.get("endpoint")
                version = endpoint.get("api_version") if isinstance(endpoint, dict) else None
                # Each event arrives twice: in the account's own API version, without a version
                # here, and in the latest one. ``filterWebhookEvent``
                # (pkg/proxy/webhook_event_processor.go) chooses one of them.
                await self._take(session, frame, payload, is_preferred=version is not None)
            case {"type": "v2_event", "payload": str(payload)}:
                await self._take(session, frame, payload, is_preferred=True)
            case _:
                kind = frame.get("type") if isinstance(frame, dict) else None
                _log.debug("websocket_message_ignored", type=kind)

    async def _take(
        self, session: CliSession, frame: dict[str, Any], payload: str, *, is_preferred: bool
    ) -> None:
        # Text that is not UTF-8 has no valid signature.
        body = payload.encode(errors="surrogatepass")
        try:
            event = open_delivery(body, _signature(frame), [session.secret])
        except (BadSignature, NotAnEvent) as error:
            _log.warning("websocket_event_refused", error=str(error))
            return
        log_event("websocket", event)
        # A thin event has no conversation.
        conversation = str(frame.get("webhook_conversation_id", ""))
        webhook = str(frame.get("webhook_id") or frame.get("destination_id", ""))
        # An event that is not acknowledged may be sent again on each connection.
        acknowledger = Acknowledger(
            key=(conversation, webhook),
            acknowledge=partial(self._answer, event.id, conversation, webhook),
            is_redelivered=False,
        )
        while not self._queue.put(event.id, body, acknowledger, is_preferred=is_preferred):
            await self._queue.wait_for_space()

    def _answer(self, event_id: str, conversation: str, webhook: str, committed: bool) -> None:
        """Acknowledge an event that is committed; send nothing for any other.

        See pkg/proxy/webhook_event_processor.go and pkg/websocket/messages.go.
        """
        if not committed:
            return
        acknowledgement = {
            "type": "event_ack",
            "event_id": event_id,
            "webhook_conversation_id": conversation,
            "webhook_id": webhook,
        }
        response = {
            "type": "webhook_response",
            "webhook_id": webhook,
            "webhook_conversation_id": conversation,
            "forward_url": "pipesync",
            "status": 200,
            "http_headers": {},
            "body": "",
        }
        for message in (acknowledgement, response):
            self._websocket.send(exact_json.encode(message).decode())


def _signature(frame: dict[str, Any]) -> str:
    headers = frame.get("http_headers")
    if isinstance(headers, dict):
        for name, value in headers.items():
            if name.lower() == SIGNATURE_HEADER and isinstance(value, str):
                return value
    return ""
