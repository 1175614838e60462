"""Sessions of the Stripe CLI: events by WebSocket, for clients without a public address.

Rules: https://github.com/stripe/stripe-cli (pkg/stripeauth, pkg/websocket).
"""

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any

import orjson

from engine_server.connectors.stripe.catalog.streams import api_version
from tests.stripe_simulator import errors
from tests.stripe_simulator.accounts import Account
from tests.stripe_simulator.events import Event
from tests.stripe_simulator.forms import Fields
from tests.stripe_simulator.signatures import delivery_headers

SESSIONS_PATH = "/v1/stripecli/sessions"
SOCKET_PATH = "/stripecli/subscribe"
# The feature that a client requests differs from the one that it then has to name.
_ASKED_FEATURE = "webhooks"
_AUTHORIZED_FEATURE = "webhook-payloads"


class CliSession:
    """One session, which outlives its connections.

    Attributes:
        id: Id with which a client connects.
        secret: Signing secret of its events.
        feature: Feature for which a client may connect.
        to_send: Conversations still to be sent on the current connection.
        acknowledged: Ids of acknowledged events, in the order of their acknowledgements.
        responses: Messages of the client about its own deliveries of the events.
    """

    def __init__(self, session_id: str, secret: str, account_id: str) -> None:
        self.id = session_id
        self.secret = secret
        self.account_id = account_id
        self.feature = _AUTHORIZED_FEATURE
        self.to_send: asyncio.Queue[str] = asyncio.Queue()
        self.acknowledged: list[str] = []
        self.responses: list[Mapping[str, Any]] = []
        self._numbers = itertools.count()
        self._unacknowledged: dict[str, Event] = {}
        # Conversations that are sent in the account's own API version.
        self._own_versions: dict[str, str] = {}
        self._settled = asyncio.Event()
        self._settled.set()
        self._messages = 0
        self._heard = asyncio.Event()

    def put(self, event: Event, own_version: str | None = None) -> None:
        """Queue an event, to be sent on every new connection until it is acknowledged.

        Args:
            event: Event to send.
            own_version: The account's own API version, if the event is to be sent in it; None for
                the latest version.
        """
        # A thin event has no conversation and is acknowledged by its id alone.
        conversation = event.id if event.thin else f"wc_{self.id}_{next(self._numbers)}"
        if own_version is not None:
            self._own_versions[conversation] = own_version
        self._unacknowledged[conversation] = event
        self._settled.clear()
        self.to_send.put_nowait(conversation)

    def start_over(self) -> None:
        """Queue all unacknowledged events for a new connection."""
        self.to_send = asyncio.Queue()
        for conversation in self._unacknowledged:
            self.to_send.put_nowait(conversation)

    def frame(self, conversation: str) -> bytes | None:
        """Return the frame to send for a conversation; None when it is acknowledged."""
        event = self._unacknowledged.get(conversation)
        if event is None:
            return None
        own_version = self._own_versions.get(conversation)
        body = event.rendered(own_version or api_version())
        text, headers = body.decode(), delivery_headers(body, self.secret)
        if event.thin:
            return orjson.dumps(
                {
                    "type": "v2_event",
                    "destination_id": f"ed_{self.id}",
                    "http_headers": headers,
                    "payload": text,
                }
            )
        return orjson.dumps(
            {
                "type": "webhook_event",
                "endpoint": {"api_version": None if own_version else api_version()},
                "event_payload": text,
                "http_headers": headers,
                "webhook_conversation_id": conversation,
                "webhook_id": f"wh_{self.id}",
            }
        )

    def receive(self, message: Mapping[str, Any]) -> None:
        """Process a message of the client."""
        self._messages += 1
        self._heard.set()
        self._heard = asyncio.Event()
        match message:
            case {"type": "event_ack", "event_id": event_id, "webhook_conversation_id": talk}:
                self._acknowledge(talk or event_id, event_id)
            case {"type": "webhook_response"}:
                self.responses.append(message)
            case _:
                raise ValueError(f"no message of the CLI's: {message}")

    async def heard(self, count: int = 1) -> None:
        """Wait until the client has sent this many messages."""
        while self._messages < count:
            await self._heard.wait()

    @property
    def is_settled(self) -> bool:
        """Return whether all events are acknowledged."""
        return self._settled.is_set()

    async def settled(self) -> None:
        """Wait until all events are acknowledged."""
        await self._settled.wait()

    def give_up(self, event_id: str) -> None:
        """Stop sending an event."""
        for conversation, event in list(self._unacknowledged.items()):
            if event.id == event_id:
                del self._unacknowledged[conversation]
        self._note_settled()

    def _acknowledge(self, conversation: str, event_id: str) -> None:
        event = self._unacknowledged.get(conversation)
        if event is None or event.id != event_id:
            return
        del self._unacknowledged[conversation]
        self.acknowledged.append(event_id)
        self._note_settled()

    def _note_settled(self) -> None:
        if not self._unacknowledged:
            self._settled.set()


class CliSessions:
    """All sessions.

    Attributes:
        reconnect_delay: Seconds after which a client is told to reconnect.
        own_version: The accounts' own API version. When it differs from the latest, each event is
            sent in both versions: pkg/proxy/webhook_event_processor.go picks one of them.
        sends_latest: Whether events are sent in the latest version at all.
        made: All sessions made so far, including expired ones.
    """

    def __init__(self) -> None:
        self.own_version: str | None = None
        self.sends_latest = True
        self.reconnect_delay = 60
        self.made: list[CliSession] = []
        self._sessions: dict[str, CliSession] = {}
        self._made_another = asyncio.Event()

    def create(self, account: Account, fields: Fields, host: str) -> bytes:
        """Answer ``POST /v1/stripecli/sessions``.

        Raises:
            Refusal: A parameter is missing, or the feature is unknown.
        """
        for param in ("device_name", "websocket_features"):
            if param not in fields:
                raise errors.missing_parameter(param)
        if _ASKED_FEATURE not in fields["websocket_features"]:
            raise errors.invalid_request(
                400, "Invalid websocket feature.", param="websocket_features"
            )
        number = next(account.numbers)
        session = CliSession(
            account.references.token("cliws_", "session", number),
            account.references.token("whsec_", "session", number),
            account.id,
        )
        self._sessions[session.id] = session
        self.made.append(session)
        self._made_another.set()
        return orjson.dumps(
            {
                "display_connect_filter_warning": False,
                "reconnect_delay": self.reconnect_delay,
                "secret": session.secret,
                "websocket_authorized_feature": session.feature,
                "websocket_id": session.id,
                "websocket_url": f"ws://{host}{SOCKET_PATH}",
            }
        )

    def get(self, session_id: str) -> CliSession | None:
        """Return the session of that id; None when it is expired or unknown."""
        return self._sessions.get(session_id)

    def expire(self) -> None:
        """Expire all sessions; events that they have yet to send are lost."""
        self._sessions.clear()

    def deliver(self, event: Event, account_ids: frozenset[str]) -> None:
        """Send an event to the sessions of these accounts."""
        for session in self._sessions.values():
            if session.account_id not in account_ids:
                continue
            if self.own_version is not None and not event.thin:
                session.put(event, self.own_version)
            if self.sends_latest or event.thin:
                session.put(event)

    def give_up(self, event_id: str) -> None:
        """Stop sending an event."""
        for session in self.made:
            session.give_up(event_id)

    async def settled(self) -> None:
        """Wait until all events are acknowledged."""
        for session in list(self._sessions.values()):
            await session.settled()

    async def last_settled(self) -> None:
        """Wait until the last session has all its events acknowledged; earlier clients are gone."""
        while not self.made or not self.made[-1].is_settled:
            self._made_another.clear()
            waits = [self._made_another.wait(), *(one.settled() for one in self.made[-1:])]
            tasks = [asyncio.create_task(wait) for wait in waits]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
