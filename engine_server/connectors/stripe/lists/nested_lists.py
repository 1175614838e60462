"""Lists inside a page's objects, of which Stripe sends only the first ten items each.

Rules: https://docs.stripe.com/api/pagination and, for example,
https://docs.stripe.com/api/invoice-line-item/retrieve
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import structlog

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.api.list_completion import ListCompletion
from engine_server.connectors.stripe.catalog.streams import Resource
from engine_server.connectors.stripe.lists.empty_pages import EmptyPage
from engine_server.connectors.stripe.lists.nested_pages import complete

_log = structlog.get_logger(__name__)

# The number of lists of a page completed concurrently: with responses within 0.4 seconds this uses
# the whole rate of one endpoint.
_LISTS_AT_ONCE = 8


async def records_to_emit(
    client: StripeClient,
    resource: Resource,
    listed: Sequence[dict[str, Any]],
    *,
    has_open_lists: bool = True,
) -> list[dict[str, Any]]:
    """Return the records of a page's objects, with all lists inside them complete.

    A list is completed in place, and its ``has_more`` cleared. A list of an object that was deleted
    meanwhile keeps its ``has_more`` and its known items: the deletion arrives as an event. So does
    a list whose rest Stripe refuses, with one warning per stream and client.

    Args:
        client: Sends the requests.
        resource: The listed stream.
        listed: Objects of one page.
        has_open_lists: Whether the page has incomplete lists; False avoids searching for them.

    Returns:
        The objects themselves, or the items of the list in their ``nested_field``.

    Raises:
        ConnectionFailed: See ``StripeClient.get``.
        RequestFailed: Stripe keeps failing, or a list does not name its next page.
    """
    if not resource.nested_field:
        if has_open_lists:
            await _complete_all(client, resource, listed)
        return list(listed)
    nested = [found for parent in listed if (found := _list_within(parent, resource)) is not None]
    if has_open_lists:
        # Only these lists of the parents are needed.
        await _complete_all(client, resource, nested)
    return [item for items in nested for item in items["data"]]


def _list_within(parent: dict[str, Any], resource: Resource) -> dict[str, Any] | None:
    found = parent.get(resource.nested_field)
    if found is None:
        # A deleted object has no list.
        return None
    if not isinstance(found, dict) or not isinstance(found.get("data"), list):
        raise RequestFailed(
            f"GET {resource.path} was answered with an object whose {resource.nested_field} are no "
            "list",
            status=200,
        )
    return found


async def _complete_all(
    client: StripeClient, resource: Resource, values: Iterable[dict[str, Any]]
) -> None:
    waiting = deque(_open_lists(values))
    if not waiting:
        return
    completion = client.list_completion(resource.stream.name)

    async def work() -> None:
        while waiting:
            # Items may hold lists, too, which the next free worker completes.
            nested = waiting.popleft()
            known = len(nested["data"]) if isinstance(nested.get("data"), list) else 0
            try:
                waiting.extend(_open_lists(await complete(client, nested)))
            except RequestFailed as error:
                if not _is_about_one_list(error):
                    raise
                _warn(completion, resource, nested, error)
                waiting.extend(_open_lists(nested["data"][known:]))

    try:
        async with completion.turn, asyncio.TaskGroup() as workers:
            for _ in range(min(_LISTS_AT_ONCE, client.useful_concurrency(), len(waiting))):
                workers.create_task(work())
    except ExceptionGroup as errors:
        # The first failure cancelled the other tasks.
        raise errors.exceptions[0] from None


def _is_about_one_list(error: RequestFailed) -> bool:
    """Return whether Stripe itself refuses the rest of a list, or leaves it empty.

    Another request for it would get the same response, while the other objects can be read. A 403
    or 404 without Stripe's message is from a proxy, and may pass.
    """
    if isinstance(error, EmptyPage):
        return True
    return error.status in (400, 401, 403, 404) and bool(error.stripe_message)


def _warn(
    completion: ListCompletion, resource: Resource, nested: dict[str, Any], error: RequestFailed
) -> None:
    """Log that a list stays incomplete, as a warning the first time."""
    write = _log.debug if completion.has_warned else _log.warning
    completion.has_warned = True
    write(
        "nested_list_incomplete",
        stream=resource.stream.name,
        url=nested.get("url"),
        items=len(nested["data"]),
        error=error.message,
    )


def _open_lists(values: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return every incomplete list in the values, at any depth."""
    found = []
    pending: list[Any] = list(values)
    for value in pending:
        if type(value) is dict:
            if value.get("object") == "list" and value.get("has_more") is True:
                found.append(value)
            pending.extend(child for child in value.values() if type(child) in (dict, list))
        else:
            pending.extend(child for child in value if type(child) in (dict, list))
    return found
