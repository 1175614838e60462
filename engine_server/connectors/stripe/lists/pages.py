"""Pages of lists, in both of Stripe's paging styles."""

from dataclasses import dataclass
from operator import attrgetter
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.catalog.streams import Resource
from engine_server.connectors.stripe.lists.empty_pages import get_page
from engine_server.connectors.stripe.lists.list_page import (
    ListedObject,
    ListResponse,
    decode_list,
    is_empty_page,
)
from engine_server.connectors.stripe.lists.ranges import Range
from engine_server.text import is_storable

# The largest page of a v1 list (https://docs.stripe.com/api/pagination).
V1_PAGE_SIZE = 100
# The largest page that every v2 list supports.
V2_PAGE_SIZE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of a list.

    Attributes:
        objects: The objects in the order of the list.
        times_newest_first: The creation times of the response's objects; empty unless all are known
            and newest first.
        next_cursor: The start of the next page; None on the last page.
        known_until: The last Unix second that was over at the request. The page contains all
            changes up to then, and possibly later ones.
        has_open_lists: Whether a list inside an object has more items.
        is_cut: Whether the response holds more objects, which follow.
        whole: The whole response, if this is the last part of one.
    """

    objects: list[ListedObject]
    times_newest_first: list[int]
    next_cursor: str | None
    known_until: int
    has_open_lists: bool
    is_cut: bool = False
    whole: "Page | None" = None

    @property
    def listed_count(self) -> int:
        """The number of objects in the response."""
        return len((self.whole or self).objects)


def page_size(resource: Resource) -> int:
    """Return the most objects that one page of the list holds."""
    return V1_PAGE_SIZE if resource.api == "v1" else V2_PAGE_SIZE


async def fetch_page(client: StripeClient, resource: Resource, part: Range, size: int) -> Page:
    """Return the first page of the rest of ``part``.

    Raises:
        ConnectionFailed: See ``StripeClient.get``.
        EmptyPage: The page of a v1 list stays empty although it promises more.
        RequestFailed: See ``StripeClient.get``; or the response is no list.
    """
    params = dict(resource.list_params)
    if resource.takes_limit:
        params["limit"] = str(size)
    if part.gte is not None and resource.created_param:
        params[f"{resource.created_param}[gte]"] = str(part.gte)
    if part.lt is not None and resource.created_param:
        params[f"{resource.created_param}[lt]"] = str(part.lt)
    if part.cursor is not None:
        params["starting_after" if resource.api == "v1" else "page"] = part.cursor
    answer = await get_page(
        client, resource.path, params, decode=decode_list, is_empty=is_empty_page
    )
    found = answer.body
    if found is None:
        raise _no_list(resource, answer.request_id)
    try:
        next_cursor = _next_cursor(resource, found)
    except (KeyError, ValueError) as error:
        raise _no_list(resource, answer.request_id) from error
    if next_cursor is not None and not is_storable(next_cursor):
        # A checkpoint cannot hold this cursor.
        raise _no_list(resource, answer.request_id)
    return Page(
        objects=found.objects,
        times_newest_first=_times_newest_first(found.objects, resource.created_field),
        next_cursor=next_cursor,
        known_until=answer.known_until,
        has_open_lists=found.open_lists > (found.has_more is True),
    )


async def fetch_object(
    client: StripeClient, resource: Resource, object_id: str
) -> dict[str, Any] | None:
    """Return one object of the list; None if it no longer exists.

    Raises:
        ConnectionFailed: See ``StripeClient.get``.
    """
    try:
        answer = await client.get(
            f"{resource.path}/{quote(object_id, safe='')}", {}, endpoint=resource.path
        )
    except RequestFailed:
        return None
    # Some deleted objects can be retrieved, but are no longer listed.
    is_listed = isinstance(answer.body, dict) and not answer.body.get("deleted")
    return answer.body if is_listed else None


def _no_list(resource: Resource, request_id: str) -> RequestFailed:
    return RequestFailed(
        f"GET {resource.path} was not answered with a list whose objects have ids; "
        f"request_id: {request_id}",
        status=200,
    )


def _times_newest_first(objects: list[ListedObject], created_field: str) -> list[int]:
    times = list(map(attrgetter(f"head.{created_field}"), objects))
    all_tell = set(map(type, times)) <= {int}
    return times if all_tell and times == sorted(times, reverse=True) else []


def _next_cursor(resource: Resource, found: ListResponse) -> str | None:
    if resource.api == "v1":
        if found.has_more is None:
            raise ValueError("a list that does not say whether it has more")
        if not found.has_more:
            return None
        if not found.objects or found.objects[-1].head.id is None:
            raise ValueError("a page that promises more has nothing to start after")
        return str(found.objects[-1].head.id)
    if not found.next_page_url:
        return None
    [token] = parse_qs(urlsplit(str(found.next_page_url)).query)["page"]
    return token
