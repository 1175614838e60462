"""``GET /v1/events``: a list like others that can be limited to some types of events.

Rules: https://docs.stripe.com/api/events/list
"""

import re
from collections.abc import Sequence
from fnmatch import translate
from functools import cache

from tests.stripe_simulator import errors
from tests.stripe_simulator.events import EventLog
from tests.stripe_simulator.lists import Pages
from tests.stripe_simulator.objects import Key, StoredObject

_MOST_TYPES = 20


def split_types(
    query: Sequence[tuple[str, str]],
) -> tuple[list[str], dict[str, str]]:
    """Return the types that a query asks for (none: all of them), and the rest of the query.

    Raises:
        Refusal: The query has both parameters, or too many types.
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
    """The events of some types, in the order of all events."""

    def __init__(self, log: EventLog, types: Sequence[str]) -> None:
        self._log = log
        wanted = "|".join(map(translate, types))
        # Called for every event.
        self._is_wanted_type = cache(re.compile(wanted).match)

    def page_before(self, low: Key, high: Key, limit: int) -> tuple[Sequence[StoredObject], bool]:
        """See ``ObjectOrder``."""
        found: list[StoredObject] = []
        for item in self._log.listed.listed.descending(low, high):
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
        wanted = [
            item
            for item in self._log.listed.listed.descending(after, high)
            if self._is_wanted(item)
        ]
        return wanted[max(0, len(wanted) - limit) :], len(wanted) > limit

    def _is_wanted(self, item: StoredObject) -> bool:
        return self._is_wanted_type(self._log.type_of(item)) is not None


def pages(log: EventLog, types: Sequence[str]) -> Pages | None:
    """Return the pages of the events of these types; None when the list shows all events."""
    return OfTypes(log, types) if types else None
