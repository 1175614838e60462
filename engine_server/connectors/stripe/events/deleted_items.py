"""Items deleted from a list inside an object."""

from collections.abc import Iterator
from typing import Any

# The number of items of a list that its object holds
# (https://docs.stripe.com/api/subscriptions/object).
MOST_EMBEDDED = 10


def deleted_items(before: object, now: object) -> Iterator[dict[str, Any]]:
    """Yield the items that an event shows to have left a list.

    Args:
        before: The list before the event, ``{"data": [...]}``, possibly incomplete; any other value
            holds no items.
        now: The list now. An incomplete list shows no deletions.
    """
    match before, now:
        case {"data": list(items)}, {"data": list(left)} if not _is_open(now):
            kept = {item.get("id") for item in left}
            for item in items:
                if isinstance(item, dict) and "id" in item and item["id"] not in kept:
                    yield {**item, "deleted": True}


def is_cut(found: object) -> bool:
    """Return whether a list in an event may lack some of its items.

    In ``previous_attributes`` a list is truncated as in its object, and does not always say so.
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
