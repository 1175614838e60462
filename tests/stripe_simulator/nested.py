"""Lists inside an object: the object contains the first ten items, the list's own URL all items.

Rules: https://docs.stripe.com/api/subscription_items/list and /api/invoice-line-item/retrieve
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from engine_server import exact_json
from engine_server.connectors.stripe.catalog.endpoints import ListEndpoint
from tests.stripe_simulator import lists
from tests.stripe_simulator.objects import ObjectList

# Number of a list's items that its object contains.
EMBEDDED = 10

# Query parameters that name the object that contains a list.
_Parent = frozenset[tuple[str, str]]


class NestedLists:
    """All lists inside objects, by the URL that the object names."""

    def __init__(self) -> None:
        # By path, then by the query parameters that name the parent.
        self._lists: dict[str, dict[_Parent, ObjectList]] = {}

    def put(self, url: str, documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Serve the documents in this order, and return the list to embed in their parent.

        Documents that the URL served before are replaced.

        Args:
            url: URL of the list, e.g. ``/v1/invoices/in_1/lines`` or
                ``/v1/subscription_items?subscription=sub_1``.
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
        """Return all documents at the URL, newest first; an empty list when no object names it."""
        target = urlsplit(url)
        objects = self._lists.get(target.path, {}).get(frozenset(parse_qsl(target.query)))
        return list(objects.documents())[::-1] if objects else []

    def page(self, path: str, query: Mapping[str, str]) -> bytes | None:
        """Return one page of the list at that URL; None when no object names it.

        Raises:
            Refusal: A parameter is bad.
        """
        by_parent = self._lists.get(path)
        if by_parent is None:
            return None
        # Look up all parameters that name the parent at once: there may be many thousands of
        # parents.
        named = frozenset(pair for pair in query.items() if pair[0] not in lists.PAGING)
        for parent in (named, frozenset[tuple[str, str]]()):
            objects = by_parent.get(parent)
            if objects is not None:
                paging = dict(query.items() - parent)
                return lists.list_page(_endpoint(path), objects, paging)
        return None

    def endpoint(self, path: str) -> str:
        """Return the path by which rate limits count a list, the same for all its parents."""
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
