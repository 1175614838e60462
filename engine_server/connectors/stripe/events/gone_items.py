"""The items that a list inside an object has no more."""

from collections.abc import Iterator
from typing import Any


def gone_items(before: object, now: object) -> Iterator[dict[str, Any]]:
    """What was in a list before an event, as far as the event tells, and is not now.

    Args:
        before: The list as it was, ``{"data": [...]}``, cut perhaps; anything else holds nothing.
        now: The list as it is. Of one that is not whole nothing is known to be gone.
    """
    match before, now:
        case {"data": list(items)}, {"data": list(left)} if not _is_open(now):
            kept = {item.get("id") for item in left}
            for item in items:
                if isinstance(item, dict) and "id" in item and item["id"] not in kept:
                    yield {**item, "deleted": True}


def _is_open(found: object) -> bool:
    return isinstance(found, dict) and found.get("has_more") is True
