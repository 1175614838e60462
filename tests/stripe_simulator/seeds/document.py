"""Maker of a seeded object."""

from collections.abc import Callable
from typing import Any

from tests.stripe_simulator.seeds.references import References

Document = dict[str, Any]
# From the plan's references, the object's place in its stream, and its creation in Unix seconds.
Maker = Callable[[References, int, int], Document]


def list_within(data: list[Document], url: str) -> Document:
    """Return a whole list to embed in an object."""
    return {"object": "list", "data": data, "has_more": False, "total_count": len(data), "url": url}
