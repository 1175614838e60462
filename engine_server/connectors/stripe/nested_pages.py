"""The rest of one list inside an object, read page by page from the URL that the list names."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import structlog

from engine_server import exact_json
from engine_server.connectors.stripe.api_url import split_api_url
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.empty_pages import get_page
from engine_server.connectors.stripe.errors import RequestFailed
from engine_server.connectors.stripe.listed import count_open_lists

log = structlog.get_logger()

# The most that a list gives (https://docs.stripe.com/api/pagination).
_PAGE_SIZE = "100"


async def complete(client: StripeClient, nested: dict[str, Any]) -> list[dict[str, Any]]:
    """Reads a list to its end, in place, and clears its ``has_more``.

    Items that it holds stay as they are. One that is deleted while the next page is asked for goes,
    as it is what that page would start after. If the list itself is there no more, it keeps what it
    holds, and its ``has_more``.

    Args:
        client: The way to Stripe.
        nested: The list as it stands in its object, with ``url``, ``data`` and ``has_more``. Items
            may lack an id, but one that another page follows.

    Returns:
        The items that it did not hold before and that may hold such lists themselves.

    Raises:
        ConnectionFailed: see ``StripeClient.get``.
        EmptyPage: a page promises more and holds nothing.
        RequestFailed: see ``StripeClient.get``, and a list that cannot be followed to its end.
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
            # What else is missing can only be the object that the list is inside of.
            if error.stripe_code != "resource_missing":
                raise
            log.warning("nested_list_gone", path=location.path, error=error.message)
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
    """Where a list inside an object is read.

    Attributes:
        path: e.g. ``/v1/invoices/in_1/lines``.
        params: What its URL asks for, e.g. ``{"subscription": "sub_1"}``.
    """

    path: str
    params: Mapping[str, str]

    @classmethod
    def of(cls, url: object) -> Self:
        """What a list's ``url`` says.

        Raises:
            RequestFailed: it is no path of the API.
        """
        target = split_api_url(url)
        if target is None:
            raise RequestFailed(
                f"a list inside an object goes on at {url!r}, which is no path of the API",
                status=200,
            )
        path, params = target
        return cls(path=path, params=params)

    @property
    def endpoint(self) -> str:
        """The path without an id in it: what all such lists are paced as."""
        segments = self.path.split("/")
        # The list's parent is named in the query or, if there is none, right before the last name.
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
                f"the list of {location.path} goes on after an item without an id", status=200
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
    """Whether a page promises more and holds nothing."""
    match answer[0]:
        case {"data": [], "has_more": True}:
            return True
    return False


def _with_open_lists(body: bytes) -> tuple[Any, int]:
    return exact_json.decode(body), count_open_lists(body)


def _ids(items: Iterable[dict[str, Any]]) -> set[Any]:
    return {item["id"] for item in items if "id" in item}
