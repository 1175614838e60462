"""Lists inside an object: the object carries the first ten, a list of their own carries all.

Rules: https://docs.stripe.com/api/subscription_items/list and /api/invoice-line-item/retrieve
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from engine_server import exact_json
from engine_server.connectors.stripe.catalog_endpoints import ListEndpoint
from tests.stripe_simulator import lists
from tests.stripe_simulator.objects import ObjectList

# How many items of a list its object holds.
EMBEDDED = 10

# The query parameters that name the object which a list is inside of.
_Parent = frozenset[tuple[str, str]]


class NestedLists:
    """All lists inside objects, by the URL that the object names."""

    def __init__(self) -> None:
        # By path, then by what the query must hold.
        self._lists: dict[str, dict[_Parent, ObjectList]] = {}

    def put(self, url: str, documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Serves the documents, in this order, and answers the list to embed in their parent.

        What the URL has served before is replaced.

        Args:
            url: e.g. ``/v1/invoices/in_1/lines`` or ``/v1/subscription_items?subscription=sub_1``.
            documents: Objects that all have ``created``, newest first, or that all have none.
        """
        target = urlsplit(url)
        objects = ObjectList()
        for document in reversed(documents):
            objects.put(document)
        self._lists.setdefault(target.path, {})[frozenset(parse_qsl(target.query))] = objects
        page = lists.list_page(_endpoint(target.path), objects, {"limit": str(EMBEDDED)})
        return {**exact_json.decode(page), "total_count": len(documents), "url": url}

    def documents(self, url: str) -> list[dict[str, Any]]:
        """All that the URL lists, newest first; none when no object names it."""
        target = urlsplit(url)
        objects = self._lists.get(target.path, {}).get(frozenset(parse_qsl(target.query)))
        return list(objects.documents())[::-1] if objects else []

    def page(self, path: str, query: Mapping[str, str]) -> bytes | None:
        """One page of the list at that URL; None when no object names it.

        Raises:
            Refusal: a parameter is bad.
        """
        by_parent = self._lists.get(path)
        if by_parent is None:
            return None
        # What names the parent is looked up as a whole: there may be many thousands.
        named = frozenset(pair for pair in query.items() if pair[0] not in lists.PAGING)
        for parent in (named, frozenset[tuple[str, str]]()):
            objects = by_parent.get(parent)
            if objects is not None:
                paging = dict(query.items() - parent)
                return lists.list_page(_endpoint(path), objects, paging)
        return None

    def endpoint(self, path: str) -> str:
        """What a list counts as for rate limits, whoever it is inside of."""
        if frozenset() not in self._lists[path]:
            return path
        parent, _, name = path.rpartition("/")
        return f"{parent.rpartition('/')[0]}/:id/{name}"


def _endpoint(path: str) -> ListEndpoint:
    return ListEndpoint(
        path=path,
        required_params=frozenset(),
        optional_params=lists.PAGING,
        object_module="",
        object_name="",
    )
