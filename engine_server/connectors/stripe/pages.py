"""One page of a list, in either of Stripe's two paging styles."""

from dataclasses import dataclass
from operator import attrgetter
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from engine_server.connectors.stripe.catalog import Resource
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.empty_pages import get_page
from engine_server.connectors.stripe.errors import RequestFailed
from engine_server.connectors.stripe.listed import (
    ListAnswer,
    ListedObject,
    decode_list,
    is_empty_page,
)
from engine_server.connectors.stripe.ranges import Range

# The most that a v1 list gives (https://docs.stripe.com/api/pagination).
V1_PAGE_SIZE = 100
# The most that every v2 list gives.
V2_PAGE_SIZE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What one list request brought.

    Attributes:
        objects: In the order of the list.
        times_newest_first: When the answer's objects were created; empty if not all tell, or not
            newest first.
        next_cursor: Where the next page starts; None when this is the last one.
        known_until: The last Unix second that was over when it was asked for. All that changed by
            then is in it; what changes later may not be.
        has_open_lists: Whether a list inside an object says that it has more items.
        is_cut: Whether the answer held more objects, which come next.
        whole: The answer, where this is the last part of one.
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
        """How many objects the answer held."""
        return len((self.whole or self).objects)


def page_size(resource: Resource) -> int:
    """The most objects that one page of the list holds."""
    return V1_PAGE_SIZE if resource.api == "v1" else V2_PAGE_SIZE


async def fetch_page(client: StripeClient, resource: Resource, part: Range, size: int) -> Page:
    """Reads the first page of what is left of ``part``.

    Raises:
        ConnectionFailed: see ``StripeClient.get``.
        EmptyPage: the page of a v1 list promises more and holds nothing.
        RequestFailed: see ``StripeClient.get``, and an answer that is no list.
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
    """One object of the list; None when it is there no more.

    Raises:
        ConnectionFailed: see ``StripeClient.get``.
    """
    try:
        answer = await client.get(
            f"{resource.path}/{quote(object_id, safe='')}", {}, endpoint=resource.path
        )
    except RequestFailed:
        return None
    # Some objects can be retrieved after they were deleted, but are listed no more.
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


def _next_cursor(resource: Resource, found: ListAnswer) -> str | None:
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
