"""Events of one account's objects, as ``/v1/events`` lists them: for 30 days, after a delay.

Rules: https://docs.stripe.com/api/events. Others observed that the list is eventually consistent,
so that an older event may appear after a newer one:
https://github.com/estuary/connectors/issues/2712
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson

from engine_server import exact_json
from engine_server.connectors.stripe.catalog.streams import api_version
from tests.stripe_simulator.clock import Clock
from tests.stripe_simulator.objects import ObjectList, StoredObject, created_second, encoded
from tests.stripe_simulator.renderings import rendered

KEPT_SECONDS = 30 * 86_400
# Before this version, ``request`` was the id alone (https://docs.stripe.com/changelog).
_REQUEST_IS_AN_OBJECT_SINCE = "2017-05-25"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """The request that caused an event; both attributes are None for an automatic event.

    Attributes:
        request_id: Id of the request, e.g. ``req_1``.
        idempotency_key: Idempotency key that the client sent.
    """

    request_id: str | None = None
    idempotency_key: str | None = None


AUTOMATIC = Cause()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event, encoded once.

    Attributes:
        id: Event id, e.g. ``evt_1``.
        type: Event type, e.g. ``customer.created``.
        created: Creation time in Unix seconds.
        account: Connected account of the event; None for the key's own.
        body: JSON in the account's default API version.
        latest: JSON in the latest version; empty when that is ``body``.
        thin: Whether it is an event of API v2, which names its object instead of containing it
            (https://docs.stripe.com/event-destinations).
    """

    id: str
    type: str
    created: int
    account: str | None
    body: bytes
    latest: bytes = b""
    thin: bool = False

    def rendered(self, version: str | None) -> bytes:
        """Return the JSON for an endpoint's API version; the stored event stays the same."""
        if self.thin or version is None:
            return self.body
        return _in_version(self.latest or self.body, version)


def _in_version(latest: bytes, version: str) -> bytes:
    if version == api_version():
        return latest
    document = exact_json.decode(latest)
    document["api_version"] = version
    if version < _REQUEST_IS_AN_OBJECT_SINCE and isinstance(document.get("request"), dict):
        document["request"] = document["request"]["id"]
    if "data" in document:
        document["data"]["object"] = rendered(document["data"]["object"], version)
    return exact_json.encode(document)


class EventLag:
    """Delay between an event's creation and its appearance in lists, decided at its creation."""

    def __init__(self) -> None:
        self.spread(0, seed=0)

    def spread(self, longest: float, *, seed: int) -> None:
        """Delay further events at random by up to ``longest`` seconds."""
        self._longest = longest
        self._generator = random.Random(seed)  # noqa: S311 (repeatable on purpose, guards nothing)

    def draw(self) -> float:
        """Return the lag of one event in seconds."""
        return self._generator.uniform(0, self._longest)


class EventLog:
    """The events of one account.

    Attributes:
        listed: Events that lists show, as of the last call of ``catch_up``.
        thin: Events of API v2, which have a list of their own.
        listeners: Functions to call with each event when it is made.
        default_version: API version of the account, in which further events are rendered.
    """

    def __init__(self, account_id: str, clock: Clock, lag: EventLag, *, connected: bool) -> None:
        self.listed = ObjectList()
        self.thin = ObjectList()
        self.listeners: list[Callable[[Event], None]] = []
        self.default_version = api_version()
        self._account_id = account_id
        self._account = account_id if connected else None
        self._clock = clock
        self._lag = lag
        self._numbers = itertools.count()
        # Time at which each event appears, with its number in the list.
        self._late: list[tuple[float, int, Event]] = []
        self._late_by_id: dict[str, Event] = {}
        self._types: dict[str, str] = {}
        # Creation times and ids of the listed events.
        self._kept: deque[tuple[int, str]] = deque()

    def record(
        self, event_type: str, body: bytes, previous: Mapping[str, Any] | None, cause: Cause
    ) -> None:
        """Make an event for a change.

        Args:
            event_type: Event type, e.g. ``customer.updated``.
            body: Present JSON of the object.
            previous: Value of ``previous_attributes``; None omits it.
            cause: Cause of the change.
        """
        number = next(self._numbers)
        digest = blake2b(f"{self._account_id}/{number}".encode(), digest_size=12).hexdigest()
        created = self._clock.second()
        document = {
            "id": f"evt_{digest}",
            "object": "event",
            **({"account": self._account} if self._account else {}),
            "api_version": api_version(),
            "created": created,
            "data": {
                "object": orjson.Fragment(body),
                **(
                    {}
                    if previous is None
                    else {"previous_attributes": orjson.Fragment(encoded(previous))}
                ),
            },
            "livemode": False,
            "pending_webhooks": 0,
            "request": {"id": cause.request_id, "idempotency_key": cause.idempotency_key},
            "type": event_type,
        }
        self.publish(document)

    def publish(self, document: Mapping[str, Any]) -> None:
        """Add a finished event: list it after its lag, and call the listeners at once."""
        latest = encoded(document)
        # Keep an event that was rendered elsewhere as it is.
        is_ours = document.get("api_version") == api_version()
        event = Event(
            id=document["id"],
            type=document["type"],
            created=created_second(document),
            account=document.get("account"),
            body=_in_version(latest, self.default_version) if is_ours else latest,
            latest=latest,
            thin=document.get("object") == "v2.core.event",
        )
        if event.thin:
            self.thin.put_encoded(event.id, event.created, event.body)
        else:
            self._list_in_time(event)
        for listener in self.listeners:
            listener(event)

    def catch_up(self) -> None:
        """List the events that are due, and drop those that are too old."""
        now = self._clock.time()
        while self._late and self._late[0][0] <= now:
            _, number, event = heapq.heappop(self._late)
            del self._late_by_id[event.id]
            self.listed.put_encoded(event.id, event.created, event.body, number=number)
            self._types[event.id] = event.type
            self._kept.append((event.created, event.id))
        while self._kept and self._kept[0][0] < now - KEPT_SECONDS:
            _, event_id = self._kept.popleft()
            self.listed.delete(event_id)
            del self._types[event_id]

    def type_of(self, listed: StoredObject) -> str:
        """Return a listed event's type; decode the event only if a test put it there directly."""
        return self._types.get(listed.id) or exact_json.decode(listed.body)["type"]

    def get(self, event_id: str) -> bytes | None:
        """Return an event's JSON, even before lists show it."""
        if late := self._late_by_id.get(event_id):
            return late.body
        found = self.listed.get(event_id)
        return found.body if found else None

    def _list_in_time(self, event: Event) -> None:
        shown_at = self._clock.time() + self._lag.draw()
        # However late an event appears, its place is that of its creation.
        heapq.heappush(self._late, (shown_at, self.listed.take_number(), event))
        self._late_by_id[event.id] = event
        self.catch_up()
