"""One page of the events that Stripe still has, newest first."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from engine_server import exact_json
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.empty_pages import get_page
from engine_server.connectors.stripe.errors import FailureScope, RequestFailed
from engine_server.connectors.stripe.events.event import Event, NotAnEvent
from engine_server.connectors.stripe.listed import ListedObject, decode_list, is_empty_page
from engine_server.errors import ConnectorError

# https://docs.stripe.com/api/events/list
EVENTS_PATH = "/v1/events"
# https://docs.stripe.com/api/pagination
PAGE_SIZE = 100


class EventsUnreadable(ConnectorError):
    """The key may not read events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """What one request brought.

    Attributes:
        events: In the order of the list: the newest one first.
        has_more: Whether more follow in the direction that was read in.
        known_until: The last Unix second that was over when it was asked for.
    """

    events: Sequence[ListedObject]
    has_more: bool
    known_until: int


async def fetch_events(
    client: StripeClient,
    *,
    gte: int | None = None,
    lt: int | None = None,
    limit: int = PAGE_SIZE,
    **cursor: str,
) -> EventPage:
    """Reads a page of the events made in [gte, lt).

    Args:
        client: The way to Stripe.
        gte: The first Unix second; None for the oldest there is.
        lt: The second after the last; None for no end.
        limit: How many events at most.
        cursor: ``starting_after`` for what is older than an event, ``ending_before`` for what is
            newer, next to it; none for the newest.

    Raises:
        EventsUnreadable: the key may not read events.
        ConnectionFailed: see ``StripeClient.get``.
        EmptyPage: the page promises more and holds nothing.
        RequestFailed: see ``StripeClient.get``, and an answer that is no list of events.
    """
    params = {"limit": str(limit), **cursor}
    if gte is not None:
        params["created[gte]"] = str(gte)
    if lt is not None:
        params["created[lt]"] = str(lt)
    try:
        answer = await get_page(
            client,
            EVENTS_PATH,
            params,
            decode=decode_list,
            is_empty=is_empty_page,
            noun="events",
        )
    except RequestFailed as error:
        if error.is_unavailable:
            raise _unreadable(error) from error
        raise
    found = answer.body
    if (
        found is None
        or type(found.has_more) is not bool
        or not all(
            type(listed.head.id) is str and type(listed.head.created) is int
            for listed in found.objects
        )
    ):
        raise RequestFailed(
            f"GET {EVENTS_PATH} was not answered with a list of events; "
            f"request_id: {answer.request_id}",
            status=200,
        )
    return EventPage(events=found.objects, has_more=found.has_more, known_until=answer.known_until)


async def fetch_event(client: StripeClient, event_id: str, created: int) -> bytes | None:
    """Return one event as JSON; None when Stripe does not show it any more.

    Where it is refused, or answered with something else, it is read from the list of events.

    Args:
        client: The way to Stripe.
        event_id: ``evt_...``
        created: The Unix second in which it was made.

    Raises:
        EventsUnreadable: the key may not read events.
        ConnectionFailed: see ``StripeClient.get``.
        RequestFailed: Stripe keeps failing.
    """
    path = f"{EVENTS_PATH}/{quote(event_id, safe='')}"
    try:
        answer = await client.get(path, {}, endpoint=f"{EVENTS_PATH}/:id", decode=_compact)
    except RequestFailed as error:
        match error.scope:
            case FailureScope.STREAM:
                raise _unreadable(error) from error
            case FailureScope.OBJECT:
                return None if error.shows_gone else await _listed(client, event_id, created)
        raise
    if _id_of(answer.body) != event_id:
        return await _listed(client, event_id, created)
    return answer.body


async def _listed(client: StripeClient, event_id: str, created: int) -> bytes | None:
    """Return an event of the list, as JSON; None when it is not in it."""
    passed: set[str] = set()
    page = await fetch_events(client, gte=created, lt=created + 1)
    while True:
        for listed in page.events:
            if listed.head.id == event_id:
                return bytes(listed.text)
        last = str(page.events[-1].head.id) if page.events else ""
        if not page.has_more or last in passed:
            return None
        passed.add(last)
        page = await fetch_events(client, gte=created, lt=created + 1, starting_after=last)


def _compact(body: bytes) -> bytes:
    try:
        return msgspec.json.format(body, indent=-1)
    except ValueError:
        # It refuses lone surrogates.
        return exact_json.encode(exact_json.decode(body))


def _id_of(body: bytes) -> str | None:
    try:
        return Event.parse(body).id
    except NotAnEvent:
        return None


def _unreadable(error: RequestFailed) -> EventsUnreadable:
    return EventsUnreadable(
        f"events cannot be read: {error.stripe_message} The key needs the permission to read them "
        "(Events: Read)"
    )
