"""Completes the lists inside objects: an object carries only the first ten items of each.

Rules: https://docs.stripe.com/api/pagination and, for example,
https://docs.stripe.com/api/invoice-line-item/retrieve
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import structlog

from engine_server.connectors.stripe.catalog import Resource
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.errors import RequestFailed

log = structlog.get_logger()

# How many lists of one page's objects are completed side by side.
_LISTS_AT_ONCE = 8
# The most that a v1 list gives (https://docs.stripe.com/api/pagination).
_PAGE_SIZE = "100"
# What a list is followed to is asked with the key.
_API_PATHS = ("/v1/", "/v2/")


async def records_to_emit(
    client: StripeClient, resource: Resource, listed: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The records that a page's objects make, with every list inside them whole.

    A list is completed in place and then says ``has_more`` no longer. One whose object was deleted
    meanwhile keeps its ``has_more`` and what was known of it: the deletion comes as an event.

    Args:
        client: The way to Stripe.
        resource: What was listed.
        listed: Objects of one page.

    Returns:
        The objects themselves, or the items of the list in their ``nested_field``.

    Raises:
        ConnectionFailed: see ``StripeClient.get``.
        RequestFailed: the same, and a list that cannot be followed to its end.
    """
    if not resource.nested_field:
        await _complete(client, listed)
        return list(listed)
    nested = [found for parent in listed if (found := _list_within(parent, resource)) is not None]
    # What else the parents hold is of no use here.
    await _complete(client, nested)
    return [item for items in nested for item in items["data"]]


def _list_within(parent: dict[str, Any], resource: Resource) -> dict[str, Any] | None:
    found = parent.get(resource.nested_field)
    if found is None:
        # A deleted object has none.
        return None
    if not isinstance(found, dict) or not isinstance(found.get("data"), list):
        raise RequestFailed(
            f"GET {resource.path} was answered with an object whose {resource.nested_field} are no "
            "list",
            status=200,
        )
    return found


async def _complete(client: StripeClient, values: Iterable[dict[str, Any]]) -> None:
    waiting = deque(_open_lists(values))

    async def work() -> None:
        while waiting:
            # What is found on the way is taken up by whoever is free first.
            waiting.extend(_open_lists(await _NestedList(waiting.popleft()).complete(client)))

    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(min(_LISTS_AT_ONCE, len(waiting))):
                workers.create_task(work())
    except ExceptionGroup as errors:
        # The first one ended the others.
        raise errors.exceptions[0] from None


def _open_lists(values: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every list in the values, at any depth, that says that it is not whole."""
    found = []
    pending: list[Any] = list(values)
    for value in pending:
        if type(value) is dict:
            if value.get("has_more") is True and value.get("object") == "list":
                found.append(value)
            pending.extend(child for child in value.values() if type(child) in (dict, list))
        else:
            pending.extend(child for child in value if type(child) in (dict, list))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Location:
    """Where a list inside an object can be read.

    Attributes:
        path: e.g. ``/v1/invoices/in_1/lines``.
        params: What its URL asks for, e.g. ``{"subscription": "sub_1"}``.
    """

    path: str
    params: Mapping[str, str]

    @property
    def endpoint(self) -> str:
        """The path without the id in it, so that all its lists are paced as one endpoint."""
        segments = self.path.split("/")
        # A URL that names no object in its query names it right before the list's own name.
        if not self.params and len(segments) > 4:
            segments[-2] = ":id"
        return "/".join(segments)

    @classmethod
    def of(cls, url: object) -> Self:
        """What a list's ``url`` says.

        Raises:
            RequestFailed: it leads elsewhere than into the API that is read.
        """
        target = urlsplit(url if isinstance(url, str) else "")
        leads_elsewhere = target.scheme or target.netloc or not target.path.startswith(_API_PATHS)
        if leads_elsewhere or not {".", ".."}.isdisjoint(unquote(target.path).split("/")):
            raise RequestFailed(
                f"a list inside an object goes on at {url!r}, which is no path of the API",
                status=None,
            )
        return cls(path=target.path, params=dict(parse_qsl(target.query)))


class _NestedList:
    """A list inside an object that is not whole."""

    def __init__(self, value: dict[str, Any]) -> None:
        """``value`` is the list as it stands in its object.

        Raises:
            RequestFailed: it cannot be followed.
        """
        self._value = value
        self._location = _Location.of(value.get("url"))
        self._items: list[dict[str, Any]] = value.setdefault("data", [])
        self._ids = _ids(self._items)

    async def complete(self, client: StripeClient) -> list[dict[str, Any]]:
        """Reads it to its end; returns the items that it did not hold before."""
        added: list[dict[str, Any]] = []
        while self._value["has_more"]:
            try:
                page = await self._next_page(client)
            except RequestFailed as error:
                if error.is_lost_cursor and self._items:
                    # It was deleted meanwhile. The one before it leads to the same place.
                    self._ids -= _ids([self._items.pop()])
                    continue
                if error.status != 404:
                    raise
                log.warning("nested_list_gone", path=self._location.path, error=error.message)
                break
            added += self._take(page)
        return added

    async def _next_page(self, client: StripeClient) -> dict[str, Any]:
        params = {**self._location.params, "limit": _PAGE_SIZE}
        if self._items:
            params["starting_after"] = self._cursor()
        answer = await client.get(self._location.path, params, endpoint=self._location.endpoint)
        page: dict[str, Any] = answer.body
        return page

    def _cursor(self) -> str:
        cursor = self._items[-1].get("id")
        if not isinstance(cursor, str):
            raise RequestFailed(
                f"GET {self._location.path} has more items after one that has no id", status=None
            )
        return cursor

    def _take(self, page: dict[str, Any]) -> list[dict[str, Any]]:
        """Adds what a page brought; returns what of it is new."""
        try:
            items = page["data"]
            new = [item for item in items if item.get("id") not in self._ids]
            has_more = page["has_more"] and bool(items)
        except (KeyError, TypeError, AttributeError) as error:
            raise RequestFailed(
                f"GET {self._location.path} was not answered with a list of objects", status=200
            ) from error
        if has_more and not new:
            raise RequestFailed(
                f"GET {self._location.path} brings the same items again and again", status=200
            )
        self._ids |= _ids(new)
        self._items += new
        self._value["has_more"] = has_more
        return new


def _ids(items: Iterable[dict[str, Any]]) -> set[Any]:
    return {item["id"] for item in items if "id" in item}
