"""The items that a list inside an object has no more."""

from collections.abc import Iterator
from typing import Any

# How many items of a list its object holds (https://docs.stripe.com/api/subscriptions/object).
MOST_EMBEDDED = 10


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


def is_cut(found: object) -> bool:
    """Whether a list, as an event tells it, may lack some of its items.

    In ``previous_attributes`` a list is cut as it is in its object, and does not always say so.
    """
    match found:
        case {"has_more": bool(has_more)}:
            return has_more
        case {"total_count": int(count), "data": list(items)}:
            return len(items) < count
        case {"data": list(items)}:
            return len(items) >= MOST_EMBEDDED
    return False


def _is_open(found: object) -> bool:
    return isinstance(found, dict) and found.get("has_more") is True
