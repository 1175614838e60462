"""Pages of a list inside an object, read from the URL that the list names."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import structlog

from engine_server import exact_json
from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.api.transport import LARGE_BODY
from engine_server.connectors.stripe.api.url import split_api_url
from engine_server.connectors.stripe.lists.empty_pages import get_page
from engine_server.connectors.stripe.lists.list_page import count_open_lists, decode_list
from engine_server.exact_json import TooLarge

_log = structlog.get_logger(__name__)

# The largest page of a list (https://docs.stripe.com/api/pagination).
_PAGE_SIZE = "100"


async def complete(client: StripeClient, nested: dict[str, Any]) -> list[dict[str, Any]]:
    """Read a list to its end, in place, and clear its ``has_more``.

    Its present items stay as they are. An item deleted while the next page is requested is removed,
    because that page would start after it. If the list itself no longer exists, it keeps its items
    and its ``has_more``.

    Args:
        client: Sends the requests.
        nested: The list as part of its object, with ``url``, ``data`` and ``has_more``. Items may
            lack an id, except the last one of a page.

    Returns:
        The new items that may hold such lists themselves.

    Raises:
        ConnectionFailed: See ``StripeClient.get``.
        EmptyPage: A page stays empty although it promises more.
        RequestFailed: See ``StripeClient.get``; or the list cannot be read to its end.
    """
    location = _Location.of(nested.get("url"))
    items = nested.get("data")
    if not isinstance(items, list):
        raise RequestFailed(f"the list of {location.path} inside an object has no data", status=200)
    known = _ids(items)
    with_lists: list[dict[str, Any]] = []
    while nested["has_more"]:
        try:
            page = await _next_page(client, location, items)
        except RequestFailed as error:
            if items and error.is_lost_cursor:
                known -= _ids([items.pop()])
                continue
            # The only other missing object can be the one that contains the list.
            if error.stripe_code != "resource_missing":
                raise
            _log.warning("nested_list_gone", path=location.path, error=error.message)
            break
        new = [item for item in page.items if item.get("id") not in known]
        if page.has_more and not new:
            raise RequestFailed(
                f"GET {location.path} promises more and brings the same items again", status=200
            )
        known |= _ids(new)
        items += new
        if page.has_open_lists:
            with_lists += new
        nested["has_more"] = page.has_more
    return with_lists


@dataclass(frozen=True, slots=True, kw_only=True)
class _Location:
    """The location of a list inside an object.

    Attributes:
        path: The path, e.g. ``/v1/invoices/in_1/lines``.
        params: The query of its URL, e.g. ``{"subscription": "sub_1"}``.
    """

    path: str
    params: Mapping[str, str]

    @classmethod
    def of(cls, url: object) -> Self:
        """Return the location of a list's ``url``.

        Raises:
            RequestFailed: The URL is no path of the API.
        """
        target = split_api_url(url)
        if target is None:
            raise RequestFailed(
                f"a list inside an object continues at {url!r}, which is no path of the API",
                status=200,
            )
        path, params = target
        return cls(path=path, params=params)

    @property
    def endpoint(self) -> str:
        """The path without an id, which all such lists are paced as."""
        segments = self.path.split("/")
        # The list's parent is named in the query or, without one, before the last segment.
        if not self.params and len(segments) > 4:
            segments[-2] = ":id"
        return "/".join(segments)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    items: list[dict[str, Any]]
    has_more: bool
    has_open_lists: bool


async def _next_page(
    client: StripeClient, location: _Location, items: list[dict[str, Any]]
) -> _Page:
    params = {**location.params, "limit": _PAGE_SIZE}
    if items:
        cursor = items[-1].get("id")
        if not isinstance(cursor, str):
            raise RequestFailed(
                f"the list of {location.path} continues after an item without an id", status=200
            )
        params["starting_after"] = cursor
    answer = await get_page(
        client,
        location.path,
        params,
        decode=_with_open_lists,
        is_empty=_is_empty,
        endpoint=location.endpoint,
    )
    body, open_lists = answer.body
    match body:
        case {"data": list(page), "has_more": bool(has_more)} if all(
            isinstance(item, dict) for item in page
        ):
            return _Page(items=page, has_more=has_more, has_open_lists=open_lists > has_more)
    raise RequestFailed(
        f"GET {location.path} was not answered with a list of objects; "
        f"request_id: {answer.request_id}",
        status=200,
    )


def _is_empty(answer: tuple[Any, int]) -> bool:
    """Return whether a page is empty but promises more."""
    match answer[0]:
        case {"data": [], "has_more": True}:
            return True
    return False


def _with_open_lists(body: bytes) -> tuple[Any, int]:
    try:
        return exact_json.decode(body), count_open_lists(body)
    except TooLarge:
        if len(body) < LARGE_BODY:
            raise
    # In a thread, other tasks run between the objects.
    page = decode_list(body)
    if page is None:
        return None, 0
    items = [exact_json.decode(bytes(item.text)) for item in page.objects]
    return {"data": items, "has_more": page.has_more}, page.open_lists


def _ids(items: Iterable[dict[str, Any]]) -> set[Any]:
    return {item["id"] for item in items if "id" in item}
