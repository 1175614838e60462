"""Requests for a page of a v1 list, asked again while the page promises more and holds nothing.

Stripe marks the end of a list with ``has_more: false`` (https://docs.stripe.com/api/pagination). A
page with ``has_more: true`` and no objects names no object to start the next page after.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import TypeVar

import structlog

from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.errors import RequestFailed
from engine_server.connectors.stripe.transport import Answer

T = TypeVar("T")

log = structlog.get_logger()

# The same request is sent this often: an index that lags behind has caught up by then.
_ATTEMPTS = 4


class EmptyPage(RequestFailed):
    """A page that promises more and holds nothing, however often it was asked for."""


async def get_page(
    client: StripeClient,
    path: str,
    params: Mapping[str, str],
    *,
    decode: Callable[[bytes], T],
    is_empty: Callable[[T], bool],
    endpoint: str | None = None,
    noun: str = "objects",
) -> Answer[T]:
    """Return the answer to a list request, asked again while its page is empty and promises more.

    Args:
        client: The way to Stripe.
        path: As of ``StripeClient.get``, like ``params``, ``decode`` and ``endpoint``.
        params: The query.
        decode: Makes a value of the body.
        is_empty: Whether that value is a page without objects that promises more.
        endpoint: What the request is paced as.
        noun: What the list is of, for the error.

    Raises:
        ConnectionFailed: see ``StripeClient.get``.
        EmptyPage: the page stays empty.
        RequestFailed: see ``StripeClient.get``.
    """
    for attempt in itertools.count(1):
        answer = await client.get(path, params, endpoint=endpoint, decode=decode)
        if not is_empty(answer.body):
            return answer
        if attempt == _ATTEMPTS:
            break
        log.warning("stripe_page_empty", path=path, attempt=attempt, request_id=answer.request_id)
        await client.back_off(attempt)
    query = "&".join(f"{name}={value}" for name, value in params.items())
    raise EmptyPage(
        f"GET {path}?{query} was not answered with a list of {noun}: "
        f"{_ATTEMPTS} times its page promised more (has_more) and held nothing; "
        f"request_id: {answer.request_id}",
        status=200,
    )
