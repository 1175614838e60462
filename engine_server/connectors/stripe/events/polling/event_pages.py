"""Pages of the events that Stripe keeps, newest first."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from engine_server import exact_json
from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import FailureScope, RequestFailed
from engine_server.connectors.stripe.events.event import EventHead, NotAnEvent
from engine_server.connectors.stripe.lists.empty_pages import get_page
from engine_server.connectors.stripe.lists.list_page import ListedObject, decode_list, is_empty_page
from engine_server.errors import ConnectorError

# https://docs.stripe.com/api/events/list
EVENTS_PATH = "/v1/events"
# https://docs.stripe.com/api/pagination
PAGE_SIZE = 100


class EventsUnreadable(ConnectorError):
    """The key may not read events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """One page of events.

    Attributes:
        events: The events, newest first.
        has_more: Whether more events follow in the direction of the read.
        known_until: The last Unix second that was over at the request.
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
    """Return a page of the events created in [gte, lt).

    Args:
        client: Sends the requests.
        gte: The first Unix second; None for the oldest event.
        lt: The second after the last; None for no end.
        limit: The most events to return.
        cursor: ``starting_after`` for the events older than one, ``ending_before`` for the next
            newer ones; none for the newest.

    Raises:
        EventsUnreadable: The key may not read events.
        ConnectionFailed: See ``StripeClient.get``.
        EmptyPage: The page is empty although it promises more.
        RequestFailed: See ``StripeClient.get``; or the response is no list of events.
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


async def confirm_readable(client: StripeClient) -> int:
    """Request an event, and return the last Unix second that was over at the request.

    Raises:
        EventsUnreadable: The key may not read events.
        ConnectionFailed: See ``StripeClient.get``.
        RequestFailed: See ``StripeClient.get``.
    """
    try:
        return (await fetch_events(client, limit=1)).known_until
    except EventsUnreadable as error:
        raise with_polling_remedy(error) from error


def with_polling_remedy(error: EventsUnreadable) -> EventsUnreadable:
    """Return the error with the remedy of the user who polls events."""
    return EventsUnreadable(f"{error.message}; without it, turn poll_events off")


async def fetch_event(client: StripeClient, event_id: str, created: int) -> bytes | None:
    """Return one event as JSON; None if Stripe no longer shows it.

    If Stripe refuses it, or returns another object, the event is read from the list of events.

    Args:
        client: Sends the requests.
        event_id: ``evt_...``
        created: The Unix second of its creation.

    Raises:
        EventsUnreadable: The key may not read events.
        ConnectionFailed: See ``StripeClient.get``.
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
                return None if error.shows_deleted else await _listed(client, event_id, created)
        raise
    if _id_of(answer.body) != event_id:
        return await _listed(client, event_id, created)
    return answer.body


async def _listed(client: StripeClient, event_id: str, created: int) -> bytes | None:
    """Return an event of the list as JSON; None if the list lacks it."""
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
        # msgspec refuses lone surrogates.
        return exact_json.encode(exact_json.decode(body))


def _id_of(body: bytes) -> str | None:
    try:
        return EventHead.parse(body).id
    except NotAnEvent:
        return None


def _unreadable(error: RequestFailed) -> EventsUnreadable:
    return EventsUnreadable(
        f"events cannot be read: {error.stripe_message} The key needs the permission to read them "
        "(Events: Read)"
    )
