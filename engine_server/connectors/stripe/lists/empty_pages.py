"""Requests for a page of a v1 list, retried while the page is empty but promises more.

Stripe marks the end of a list with ``has_more: false`` (https://docs.stripe.com/api/pagination). A
page with ``has_more: true`` and no objects names no object to start the next page after.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import TypeVar

import structlog

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.api.exchange import ApiResponse

T = TypeVar("T")

_log = structlog.get_logger(__name__)

# Attempts at the same request: a lagging index has caught up by then.
_ATTEMPTS = 4


class EmptyPage(RequestFailed):
    """A page that stays empty although it promises more."""


async def get_page(
    client: StripeClient,
    path: str,
    params: Mapping[str, str],
    *,
    decode: Callable[[bytes], T],
    is_empty: Callable[[T], bool],
    endpoint: str | None = None,
    noun: str = "objects",
) -> ApiResponse[T]:
    """Return the response to a list request, retried while its page is empty but promises more.

    Args:
        client: Sends the requests.
        path: As in ``StripeClient.get``, like ``params``, ``decode`` and ``endpoint``.
        params: The query.
        decode: Decodes the body.
        is_empty: Returns whether the decoded page is empty but promises more.
        endpoint: The endpoint to pace the request as.
        noun: The kind of the list's objects, for the error.

    Raises:
        ConnectionFailed: See ``StripeClient.get``.
        EmptyPage: The page stays empty.
        RequestFailed: See ``StripeClient.get``.
    """
    for attempt in itertools.count(1):
        answer = await client.get(path, params, endpoint=endpoint, decode=decode)
        if not is_empty(answer.body):
            return answer
        if attempt == _ATTEMPTS:
            break
        _log.warning("stripe_page_empty", path=path, attempt=attempt, request_id=answer.request_id)
        await client.back_off(attempt)
    query = "&".join(f"{name}={value}" for name, value in params.items())
    raise EmptyPage(
        f"GET {path}?{query} was not answered with a list of {noun}: "
        f"{_ATTEMPTS} times its page promised more (has_more) and held nothing; "
        f"request_id: {answer.request_id}",
        status=200,
    )
