"""Which stream holds the objects of a type: what their ``object`` field says, e.g. ``customer``."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from engine_server.connectors.stripe.catalog import load_resources, stream_name
from engine_server.connectors.stripe.catalog_endpoints import list_endpoints
from engine_server.connectors.stripe.catalog_exceptions import NESTED_LISTS


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectType:
    """Where the objects of one type belong.

    Attributes:
        name: What their ``object`` field says.
        stream: The stream that they are records of.
        path: Where they are listed, and retrieved by their id. It holds ``{id}`` where that of
            another object belongs.
        items: The streams of what lists inside them hold, each with the field of the list:
            ``{"subscription_items": "items"}`` for subscriptions.
    """

    name: str
    stream: str
    path: str
    items: Mapping[str, str]


@cache
def object_types() -> Mapping[str, ObjectType]:
    """Every type that a stream holds, by name; worked out once, from the catalog.

    The first call takes as long as that of ``load_resources``.
    """
    streams = load_resources()
    found = {}
    for path, endpoint in list_endpoints().items():
        inside = NESTED_LISTS.get(path)
        stream = inside.stream if inside else stream_name(path)
        if stream in streams:
            name = endpoint.object_class().OBJECT_NAME
            items = {
                nested.stream: nested.field
                for nested in NESTED_LISTS.values()
                if nested.parent == path
            }
            found[name] = ObjectType(name=name, stream=stream, path=path, items=items)
    return MappingProxyType(found)
