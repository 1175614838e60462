"""``GET /v1/events``: a list like others, which can be asked for some types of events only.

Rules: https://docs.stripe.com/api/events/list
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import orjson

from tests.stripe_simulator import errors
from tests.stripe_simulator.lists import Pages
from tests.stripe_simulator.objects import Key, ObjectOrder, StoredObject

_MOST_TYPES = 20


def split_types(
    query: Sequence[tuple[str, str]],
) -> tuple[list[str], dict[str, str]]:
    """The types that a query asks for (none: all of them), and the rest of the query.

    Raises:
        Refusal: it asks in both ways, or for too many.
    """
    one = [value for name, value in query if name == "type"]
    several = [value for name, value in query if name.partition("[")[0] == "types"]
    if one and several:
        raise errors.invalid_request(
            400, "You may only specify one of these parameters: type, types."
        )
    if len(several) > _MOST_TYPES:
        raise errors.invalid_request(
            400, f"You may ask for up to {_MOST_TYPES} types.", param="types"
        )
    rest = {name: value for name, value in query if name.partition("[")[0] not in ("type", "types")}
    return one or several, rest


class OfTypes:
    """The events of some types, in the order of all."""

    def __init__(self, order: ObjectOrder, types: Sequence[str]) -> None:
        self._order = order
        self._types = types

    def page_before(self, low: Key, high: Key, limit: int) -> tuple[Sequence[StoredObject], bool]:
        """See ``ObjectOrder``."""
        found: list[StoredObject] = []
        for item in self._order.descending(low, high):
            if self._is_wanted(item):
                if len(found) == limit:
                    return found, True
                found.append(item)
        return found, False

    def page_after(
        self, cursor: Key, low: Key, high: Key, limit: int
    ) -> tuple[Sequence[StoredObject], bool]:
        """See ``ObjectOrder``."""
        after = max(low, (cursor[0], cursor[1] + 1))
        wanted = [item for item in self._order.descending(after, high) if self._is_wanted(item)]
        return wanted[max(0, len(wanted) - limit) :], len(wanted) > limit

    def _is_wanted(self, item: StoredObject) -> bool:
        name = orjson.loads(item.body)["type"]
        return any(fnmatchcase(name, pattern) for pattern in self._types)


def pages(order: ObjectOrder, types: Sequence[str]) -> Pages:
    """What a list of events goes through."""
    return OfTypes(order, types) if types else order
