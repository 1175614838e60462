"""Which stream holds the objects of a type: what their ``object`` field says, e.g. ``customer``."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from engine_server.connectors.stripe.catalog import load_resources, stream_name
from engine_server.connectors.stripe.catalog_endpoints import list_endpoints
from engine_server.connectors.stripe.catalog_exceptions import NESTED_LISTS
from engine_server.connectors.stripe.catalog_omissions import OMISSIONS
from engine_server.connectors.stripe.catalog_retrieval import retrieve_paths, without_names


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectType:
    """Where the objects of one type belong.

    Attributes:
        name: What their ``object`` field says.
        stream: The stream that they are records of.
        path: Where they are listed, and retrieved by their id. It holds ``{id}`` where that of
            another object belongs.
        is_retrievable: Whether a call retrieves one by its id.
        items: The streams of what lists inside them hold, each with the field of the list:
            ``{"subscription_items": "items"}`` for subscriptions.
    """

    name: str
    stream: str
    path: str
    items: Mapping[str, str]
    is_retrievable: bool = True


@cache
def object_types() -> Mapping[str, ObjectType]:
    """Every type that a stream holds, by name; worked out once, from the catalog.

    The first call takes as long as that of ``load_resources``.
    """
    streams = load_resources()
    found: dict[str, ObjectType] = {}
    # The shortest path first: where two lists hold objects of one type, it is the plain one.
    for path, endpoint in sorted(list_endpoints().items(), key=lambda item: len(item[0])):
        inside = NESTED_LISTS.get(path)
        stream = inside.stream if inside else stream_name(path)
        if stream not in streams:
            continue
        try:
            name = str(endpoint.object_class().OBJECT_NAME)
        except Exception as error:
            OMISSIONS.add(f"events of {path}", error)
            continue
        if name in found:
            OMISSIONS.add(f"events of {path}", f"those of {name} belong to {found[name].path}")
            continue
        items = {
            nested.stream: nested.field
            for nested in NESTED_LISTS.values()
            if nested.parent == path and nested.stream in streams
        }
        found[name] = ObjectType(
            name=name,
            stream=stream,
            path=path,
            items=items,
            is_retrievable=f"{without_names(path)}/{{id}}" in retrieve_paths(),
        )
    return MappingProxyType(dict(sorted(found.items(), key=lambda item: item[1].path)))
