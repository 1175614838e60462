"""The objects of events as they are now: each is fetched once, however many events name it."""

import asyncio
import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.errors import RequestFailed

# https://docs.stripe.com/error-codes, and the same in v2: https://docs.stripe.com/api/v2/errors
_GONE = frozenset({"resource_missing", "not_found"})
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
        async with self._turns[path]:
            # What fails for one event would keep every other one waiting just as long.
            if path in self._failures:
                raise self._failures[path]
            if path not in self._objects:
                try:
                    self._objects[path] = await self._fetch(path, params, endpoint)
                except RequestFailed as error:
                    self._failures[path] = error
                    raise
        # Each event completes the lists in its own.
        return copy.deepcopy(self._objects[path])

    async def _fetch(
        self, path: str, params: Mapping[str, str], endpoint: str
    ) -> dict[str, Any] | None:
        try:
            answer = await self._client.get(path, params, endpoint=endpoint)
        except RequestFailed as error:
            # Anybody between may answer 404, but only Stripe says that there is no such object.
            if error.status == 404 and error.stripe_code in _GONE:
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
