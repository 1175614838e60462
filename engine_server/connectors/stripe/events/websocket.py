"""Takes events from the Stripe CLI's WebSocket: no public address is needed.

Rules: https://github.com/stripe/stripe-cli, pkg/websocket (the frames, and ``Run``) and pkg/proxy
(what becomes of them). The CLI acknowledges an event as it comes; here, once it is committed.
Whether Stripe sends one again that was not acknowledged, nothing says. What happens while no
session is known is never sent: polling heals that.
"""

import asyncio
import time
from functools import partial
from types import TracebackType
from typing import Any, Self

import structlog

from engine_server import exact_json
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.errors import RequestFailed
from engine_server.connectors.stripe.events.cli_connection import (
    NotConnected,
    SessionExpired,
    Talk,
    connect,
    websocket_client,
)
from engine_server.connectors.stripe.events.cli_session import CliSession
from engine_server.connectors.stripe.events.deliveries import open_delivery
from engine_server.connectors.stripe.events.event import NotAnEvent, log_event
from engine_server.connectors.stripe.events.inbox import Inbox, Sender
from engine_server.connectors.stripe.events.pace import ListeningPace
from engine_server.errors import ConnectionFailed
from pipesync_rpc.webhook_signature import SIGNATURE_HEADER, BadSignature

log = structlog.get_logger()

# Before the first connection is given up: then it is more likely what is in between.
_FIRST_ATTEMPTS = 3


class CliWebSocket:
    """An async context manager: connected once it is entered, and again whenever that is lost."""

    def __init__(
        self, client: StripeClient, config: StripeConfig, inbox: Inbox, pace: ListeningPace
    ) -> None:
        """Connects to nothing yet."""
        self._client = client
        self._plain = config.base_url.startswith("http://")
        self._inbox = inbox
        self._pace = pace
        self._talk = Talk(pace)
        self._connected = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Connects.

        Raises:
            ConnectionFailed: Stripe gives no session, or cannot be connected to.
        """
        self._http = websocket_client()
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
            self._inbox.fail(error if isinstance(error, Exception) else RuntimeError(str(error)))

    async def _run(self) -> None:
        """Keeps a connection open, whatever happens to it.

        Raises:
            ConnectionFailed: The first one does not come about, or the key is refused.
        """
        session: CliSession | None = None
        failures = 0
        while True:
            try:
                if session is None:
                    session = await CliSession.begin(self._client)
                socket = await connect(self._http, session, plain=self._plain)
            except (RequestFailed, NotConnected) as error:
                failures += 1
                is_first = not self._connected.is_set()
                if is_first and (failures >= _FIRST_ATTEMPTS or isinstance(error, RequestFailed)):
                    raise ConnectionFailed(f"the WebSocket cannot be opened: {error}") from error
                if isinstance(error, SessionExpired):
                    session = None
                    self._talk.forget()
                log.warning("websocket_not_connected", error=str(error), attempt=failures)
                # A session that was good for a while is renewed at once.
                if failures > 1 or not isinstance(error, SessionExpired):
                    await asyncio.sleep(self._pace.connect_interval)
                continue
            failures = 0
            log.info("websocket_connected")
            self._connected.set()
            began = time.monotonic()
            hear = partial(self._hear, session)
            reason = await self._talk.go_on(socket, hear, reset_after=session.reconnect_delay)
            if reason:
                log.warning("websocket_lost", reason=reason)
            # One that is lost as soon as it is there is no better than none.
            if time.monotonic() - began < self._pace.ping_interval:
                await asyncio.sleep(self._pace.connect_interval)

    async def _hear(self, session: CliSession, message: bytes) -> None:
        try:
            frame = exact_json.decode(message)
        except ValueError:
            frame = None
        match frame:
            case {"type": "webhook_event", "event_payload": str(payload)}:
                endpoint = frame.get("endpoint")
                version = endpoint.get("api_version") if isinstance(endpoint, dict) else None
                # Each event comes twice: as the account's own API version has it, without a
                # version here, and as the latest one has it. ``filterWebhookEvent``
                # (pkg/proxy/webhook_event_processor.go) picks one of them.
                await self._take(session, frame, payload, is_preferred=version is not None)
            case {"type": "v2_event", "payload": str(payload)}:
                await self._take(session, frame, payload, is_preferred=True)
            case _:
                kind = frame.get("type") if isinstance(frame, dict) else None
                log.debug("websocket_message_ignored", type=kind)

    async def _take(
        self, session: CliSession, frame: dict[str, Any], payload: str, *, is_preferred: bool
    ) -> None:
        # What is not UTF-8 bears no good signature.
        body = payload.encode(errors="surrogatepass")
        try:
            event = open_delivery(body, _signature(frame), [session.secret])
        except (BadSignature, NotAnEvent) as error:
            log.warning("websocket_event_refused", error=str(error))
            return
        log_event("websocket", event)
        # A thin event is of no conversation.
        conversation = str(frame.get("webhook_conversation_id", ""))
        webhook = str(frame.get("webhook_id") or frame.get("destination_id", ""))
        # One that is not acknowledged may come again with each connection.
        sender = Sender(
            key=(conversation, webhook),
            answer=partial(self._answer, event.id, conversation, webhook),
            comes_again=False,
        )
        while not self._inbox.put(event.id, body, sender, is_preferred=is_preferred):
            await self._inbox.room()

    def _answer(self, event_id: str, conversation: str, webhook: str, committed: bool) -> None:
        """Acknowledges an event that is committed, and says nothing of any other.

        pkg/proxy/webhook_event_processor.go, pkg/websocket/messages.go.
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
            self._talk.say(exact_json.encode(message).decode())


def _signature(frame: dict[str, Any]) -> str:
    headers = frame.get("http_headers")
    if isinstance(headers, dict):
        for name, value in headers.items():
            if name.lower() == SIGNATURE_HEADER and isinstance(value, str):
                return value
    return ""
