"""Pages of v1 lists: newest first, by cursor, within a window of ``created``.

Rules: https://docs.stripe.com/api/pagination and the list parameters of the ``stripe`` package.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from engine_server.connectors.stripe.catalog.endpoints import ListEndpoint
from tests.stripe_simulator import errors
from tests.stripe_simulator.hidden import asks_for_all, shown
from tests.stripe_simulator.objects import Key, ObjectList, StoredObject

# Answer of a list to a cursor whose object lies outside the window: both were observed at Stripe.
OutsideCursor = Literal["empty_page", "resource_missing"]

# Paging parameters of lists; the few lists without them return everything.
PAGING = frozenset({"limit", "starting_after", "ending_before"})
_DEFAULT_LIMIT = 10
_LARGEST_LIMIT = 100
_END_OF_TIME = sys.maxsize


class Pages(Protocol):
    """The objects that a list shows, in order; see ``ObjectOrder``."""

    def page_before(
        self, low: Key, high: Key, limit: int
    ) -> tuple[Sequence[StoredObject], bool]: ...

    def page_after(
        self, cursor: Key, low: Key, high: Key, limit: int
    ) -> tuple[Sequence[StoredObject], bool]: ...


def list_page(
    endpoint: ListEndpoint,
    objects: ObjectList,
    query: Mapping[str, str],
    outside_cursor: OutsideCursor = "empty_page",
    pages: Pages | None = None,
) -> bytes:
    """Return the JSON of one page.

    Args:
        endpoint: Endpoint of the list.
        objects: All objects of the list.
        query: Parameters of the request.
        outside_cursor: Answer to a cursor outside the window.
        pages: Objects that the list shows; None for all, or all but the hidden.

    Raises:
        Refusal: A parameter is missing, unknown or bad, or a cursor names no object.
    """
    _refuse_parameters(endpoint, query)
    limit = _integer(query, "limit", _DEFAULT_LIMIT)
    if "limit" not in endpoint.optional_params:
        limit = sys.maxsize
    elif not 1 <= limit <= _LARGEST_LIMIT:
        bound = "greater than or equal to 1" if limit < 1 else "less than or equal to 100"
        raise errors.invalid_request(
            400, f"This value must be {bound} (it currently is '{limit}').", param="limit"
        )
    low, high = _window(query)
    order = pages or shown(endpoint.path, objects, query)
    starting_after, ending_before = query.get("starting_after"), query.get("ending_before")
    if starting_after is not None and ending_before is not None:
        raise errors.invalid_request(
            400, "You cannot parameterize `starting_after` and `ending_before` in one request."
        )
    cursor_param = "starting_after" if starting_after is not None else "ending_before"
    cursor_id = query.get(cursor_param)
    if cursor_id is None:
        page, has_more = order.page_before(low, high, limit)
    else:
        cursor = objects.get(cursor_id)
        outside = cursor is not None and not low <= cursor.key < high
        if cursor is None or (outside and outside_cursor == "resource_missing"):
            raise errors.resource_missing(400, errors.noun(endpoint.path), cursor_id, cursor_param)
        if outside:
            page, has_more = (), False
        elif starting_after is not None:
            page, has_more = order.page_before(low, cursor.key, limit)
        else:
            page, has_more = order.page_after(cursor.key, low, high, limit)
    return b'{"object":"list","url":"%s","has_more":%s,"data":[%s]}' % (
        endpoint.path.encode(),
        b"true" if has_more else b"false",
        b",".join(item.body for item in page),
    )


def _refuse_parameters(endpoint: ListEndpoint, query: Mapping[str, str]) -> None:
    for param in sorted(endpoint.required_params):
        if param not in query:
            raise errors.missing_parameter(param)
    known = endpoint.required_params | endpoint.optional_params
    for param, value in query.items():
        name = param.partition("[")[0]
        if name not in known:
            raise errors.unknown_parameter(param)
        if name in PAGING or name == "created" or asks_for_all(endpoint.path, param, value):
            continue
        # A refusal is better than a filter that is silently ignored.
        raise errors.invalid_request(
            400, f"The simulator does not filter by {param}={value}.", param=param
        )


def _window(query: Mapping[str, str]) -> tuple[Key, Key]:
    """Return the half-open window [low, high) of keys for the ``created`` parameters."""
    low, high = 0, _END_OF_TIME
    for param in query:
        if param.partition("[")[0] != "created":
            continue
        second = _integer(query, param, 0)
        match param:
            case "created":
                low, high = max(low, second), min(high, second + 1)
            case "created[gt]":
                low = max(low, second + 1)
            case "created[gte]":
                low = max(low, second)
            case "created[lt]":
                high = min(high, second)
            case "created[lte]":
                high = min(high, second + 1)
            case _:
                raise errors.unknown_parameter(param)
    return (low, 0), (high, 0)


def _integer(query: Mapping[str, str], param: str, default: int) -> int:
    text = query.get(param, str(default))
    try:
        return int(text)
    except ValueError:
        raise errors.invalid_request(
            400, f"Invalid integer: {text}", code="parameter_invalid_integer", param=param
        ) from None
