"""The objects of events as they are now: each is fetched once, however many events name it."""

import asyncio
import copy
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote

from engine_server import exact_json
from engine_server.connectors.stripe.catalog import Resource
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.errors import RequestFailed
from engine_server.connectors.stripe.pages import fetch_page, page_size
from engine_server.connectors.stripe.ranges import Range

_ACCOUNT_PATHS = ("/v1/accounts", "/v2/core/accounts")


class Fetches:
    """What events that came in together need of the API."""

    def __init__(self, client: StripeClient) -> None:
        """Fetches nothing yet."""
        self._client = client
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._objects: dict[str, dict[str, Any] | None] = {}
        self._failures: dict[str, RequestFailed] = {}

    async def fetch(
        self, path: str, params: Mapping[str, str], *, endpoint: str
    ) -> dict[str, Any] | None:
        """The object at ``path``; None when there is none any more.

        Args:
            path: e.g. ``/v1/customers/cus_1``.
            params: The query.
            endpoint: What the request is paced as.

        Raises:
            ConnectionFailed: see ``StripeClient.get``.
            RequestFailed: the same, and an answer that is no object.
        """
        return await self._once(path, lambda: self._fetch(path, params, endpoint))

    async def find(
        self, resource: Resource, object_id: str, created: int | None
    ) -> dict[str, Any] | None:
        """Return an object that is read from its list; None when it is not in it.

        Args:
            resource: How the list is read.
            object_id: The id of the object.
            created: When the object was made, in Unix seconds; None where that is not known. It
                spares reading the whole list where that can be filtered.

        Raises:
            ConnectionFailed: see ``StripeClient.get``.
            RequestFailed: the same, and an answer that is no list.
        """
        part = Range() if created is None else Range(gte=created, lt=created + 1)
        key = f"{resource.path}?{part.gte}/{object_id}"
        return await self._once(key, lambda: self._find(resource, object_id, part))

    async def _once(
        self, key: str, fetch: Callable[[], Awaitable[dict[str, Any] | None]]
    ) -> dict[str, Any] | None:
        async with self._turns[key]:
            # What fails for one event would keep every other one waiting just as long.
            if key in self._failures:
                raise self._failures[key]
            if key not in self._objects:
                try:
                    self._objects[key] = await fetch()
                except RequestFailed as error:
                    self._failures[key] = error
                    raise
        # Each event completes the lists in its own.
        return copy.deepcopy(self._objects[key])

    async def _find(self, resource: Resource, object_id: str, part: Range) -> dict[str, Any] | None:
        passed: set[str] = set()
        while True:
            page = await fetch_page(self._client, resource, part, page_size(resource))
            for listed in page.objects:
                if listed.head.id == object_id:
                    found: dict[str, Any] = exact_json.decode(bytes(listed.text))
                    return found
            if page.next_cursor is None:
                return None
            if page.next_cursor in passed:
                raise RequestFailed(
                    f"GET {resource.path} goes on at {page.next_cursor}, where the list was "
                    "before: its pages come to no end",
                    status=200,
                )
            passed.add(page.next_cursor)
            part = part.with_cursor(page.next_cursor)

    async def _fetch(
        self, path: str, params: Mapping[str, str], endpoint: str
    ) -> dict[str, Any] | None:
        try:
            answer = await self._client.get(path, params, endpoint=endpoint)
        except RequestFailed as error:
            if error.shows_gone:
                return None
            # What is left of an account that was disconnected is the refusal.
            parent, _, object_id = path.rpartition("/")
            if parent in _ACCOUNT_PATHS and error.shows_disconnected(unquote(object_id)):
                return None
            raise
        if not isinstance(answer.body, dict):
            raise RequestFailed(
                f"GET {path} was not answered with an object; request_id: {answer.request_id}",
                status=200,
            )
        return answer.body
