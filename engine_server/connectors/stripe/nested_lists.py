"""The lists inside a page's objects, of which Stripe sends only the first ten items each.

Rules: https://docs.stripe.com/api/pagination and, for example,
https://docs.stripe.com/api/invoice-line-item/retrieve
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import structlog

from engine_server.connectors.stripe.catalog import Resource
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.empty_pages import EmptyPage
from engine_server.connectors.stripe.errors import RequestFailed
from engine_server.connectors.stripe.nested_pages import complete

log = structlog.get_logger()

# How many lists of a page are completed side by side: with answers within 0.4 seconds as many as
# one endpoint is asked for at all.
_LISTS_AT_ONCE = 8
# How many pages of a stream are: the second has something to ask when the first has only one long
# list left. More would each take the longer, and all be held in memory meanwhile.
_PAGES_AT_ONCE = 2

# The streams whose lists were warned of, by client.
_WARNED: WeakKeyDictionary[StripeClient, set[str]] = WeakKeyDictionary()

# By client, then by stream.
_TURNS: WeakKeyDictionary[StripeClient, dict[str, asyncio.Semaphore]] = WeakKeyDictionary()


async def records_to_emit(
    client: StripeClient,
    resource: Resource,
    listed: Sequence[dict[str, Any]],
    *,
    has_open_lists: bool = True,
) -> list[dict[str, Any]]:
    """The records that a page's objects make, with every list inside them whole.

    A list is completed in place and then says ``has_more`` no longer. One whose object was deleted
    meanwhile keeps its ``has_more`` and what was known of it: the deletion comes as an event. So
    does one whose rest Stripe refuses, with one warning for the stream and the client.

    Args:
        client: The way to Stripe.
        resource: What was listed.
        listed: Objects of one page.
        has_open_lists: Whether the page has lists to complete; False spares looking for them.

    Returns:
        The objects themselves, or the items of the list in their ``nested_field``.

    Raises:
        ConnectionFailed: see ``StripeClient.get``.
        RequestFailed: Stripe keeps failing, or a list does not name where it goes on.
    """
    if not resource.nested_field:
        if has_open_lists:
            await _complete_all(client, resource, listed)
        return list(listed)
    nested = [found for parent in listed if (found := _list_within(parent, resource)) is not None]
    if has_open_lists:
        # What else the parents hold is of no use here.
        await _complete_all(client, resource, nested)
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


async def _complete_all(
    client: StripeClient, resource: Resource, values: Iterable[dict[str, Any]]
) -> None:
    waiting = deque(_open_lists(values))
    if not waiting:
        return
    turns = _TURNS.setdefault(client, {})
    turn = turns.setdefault(resource.stream.name, asyncio.Semaphore(_PAGES_AT_ONCE))

    async def work() -> None:
        while waiting:
            # Items may hold lists, too. The worker that is free first takes them up.
            nested = waiting.popleft()
            known = len(nested["data"]) if isinstance(nested.get("data"), list) else 0
            try:
                waiting.extend(_open_lists(await complete(client, nested)))
            except RequestFailed as error:
                if not _is_about_one_list(error):
                    raise
                _warn(client, resource, nested, error)
                waiting.extend(_open_lists(nested["data"][known:]))

    try:
        async with turn, asyncio.TaskGroup() as workers:
            for _ in range(min(_LISTS_AT_ONCE, client.useful_concurrency(), len(waiting))):
                workers.create_task(work())
    except ExceptionGroup as errors:
        # The first one ended the others.
        raise errors.exceptions[0] from None


def _is_about_one_list(error: RequestFailed) -> bool:
    """Whether Stripe itself refuses the rest of a list, or promises a rest and holds none.

    Another request for it would be answered the same, while the other objects can be read. A 403
    or 404 without Stripe's words is a proxy's, and may pass.
    """
    if isinstance(error, EmptyPage):
        return True
    return error.status in (400, 401, 403, 404) and bool(error.stripe_message)


def _warn(
    client: StripeClient, resource: Resource, nested: dict[str, Any], error: RequestFailed
) -> None:
    """Log that a list stays incomplete, as a warning the first time."""
    name = resource.stream.name
    warned = _WARNED.setdefault(client, set())
    write = log.debug if name in warned else log.warning
    warned.add(name)
    write(
        "nested_list_incomplete",
        stream=name,
        url=nested.get("url"),
        items=len(nested["data"]),
        error=error.message,
    )


def _open_lists(values: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every list in the values, at any depth, that says that it is not whole."""
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
