"""Fetcher of the current objects of events, each once for all events that name it."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote

from engine_server import exact_json
from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.catalog.streams import Resource
from engine_server.connectors.stripe.lists.pages import fetch_page, page_size
from engine_server.connectors.stripe.lists.ranges import Range

_ACCOUNT_PATHS = ("/v1/accounts", "/v2/core/accounts")


class ObjectFetcher:
    """Fetches the objects of events that arrived together."""

    def __init__(self, client: StripeClient) -> None:
        """Store the client; nothing is fetched yet."""
        self._client = client
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._objects: dict[str, bytes | None] = {}
        self._failures: dict[str, RequestFailed] = {}

    async def fetch(
        self, path: str, params: Mapping[str, str], *, endpoint: str
    ) -> dict[str, Any] | None:
        """Return the object at ``path``; None if it is deleted.

        Args:
            path: The path, e.g. ``/v1/customers/cus_1``.
            params: The query.
            endpoint: The endpoint to pace the request as.

        Raises:
            ConnectionFailed: See ``StripeClient.get``.
            RequestFailed: See ``StripeClient.get``; or the response is no object.
        """
        return await self._once(path, lambda: self._fetch(path, params, endpoint))

    async def find(
        self, resource: Resource, object_id: str, created: int | None
    ) -> dict[str, Any] | None:
        """Return an object read from its list; None if the list lacks it.

        Args:
            resource: How the list is read.
            object_id: The id of the object.
            created: The creation time of the object in Unix seconds; None if unknown. It avoids
                reading the whole list if the list can be filtered by it.

        Raises:
            ConnectionFailed: See ``StripeClient.get``.
            RequestFailed: See ``StripeClient.get``; or the response is no list.
        """
        part = Range() if created is None else Range(gte=created, lt=created + 1)
        key = f"{resource.path}?{part.gte}/{object_id}"
        return await self._once(key, lambda: self._find(resource, object_id, part))

    async def _once(
        self, key: str, fetch: Callable[[], Awaitable[bytes | None]]
    ) -> dict[str, Any] | None:
        async with self._turns[key]:
            # A repeated failure would take just as long for every other event.
            if key in self._failures:
                raise self._failures[key]
            if key not in self._objects:
                try:
                    self._objects[key] = await fetch()
                except RequestFailed as error:
                    self._failures[key] = error
                    raise
        # Each event completes the lists in its own copy. Decoding is ten times as fast as deepcopy.
        text = self._objects[key]
        return None if text is None else exact_json.decode(text)

    async def _find(self, resource: Resource, object_id: str, part: Range) -> bytes | None:
        passed: set[str] = set()
        while True:
            page = await fetch_page(self._client, resource, part, page_size(resource))
            for listed in page.objects:
                if listed.head.id == object_id:
                    return bytes(listed.text)
            if page.next_cursor is None:
                return None
            if page.next_cursor in passed:
                raise RequestFailed(
                    f"GET {resource.path} continues at {page.next_cursor}, an earlier position of "
                    "the list: its pages never end",
                    status=200,
                )
            passed.add(page.next_cursor)
            part = part.with_cursor(page.next_cursor)

    async def _fetch(self, path: str, params: Mapping[str, str], endpoint: str) -> bytes | None:
        try:
            answer = await self._client.get(path, params, endpoint=endpoint, decode=_object_text)
        except RequestFailed as error:
            if error.shows_deleted:
                return None
            # A disconnected account is only visible as a refusal.
            parent, _, object_id = path.rpartition("/")
            if parent in _ACCOUNT_PATHS and error.shows_disconnected(unquote(object_id)):
                return None
            raise
        if answer.body is None:
            raise RequestFailed(
                f"GET {path} was not answered with an object; request_id: {answer.request_id}",
                status=200,
            )
        return answer.body


def _object_text(body: bytes) -> bytes | None:
    """Return a body that can be decoded; None if it is no object."""
    return body if isinstance(exact_json.decode(body), dict) else None
