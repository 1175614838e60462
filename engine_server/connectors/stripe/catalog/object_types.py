"""Types of objects, as in their ``object`` field (``customer``), and their streams."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from engine_server.connectors.stripe.catalog.endpoints import list_endpoints
from engine_server.connectors.stripe.catalog.exceptions import NESTED_LISTS
from engine_server.connectors.stripe.catalog.omissions import OMISSIONS
from engine_server.connectors.stripe.catalog.retrieval import retrieve_paths, without_names
from engine_server.connectors.stripe.catalog.streams import load_resources, stream_name


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectType:
    """The stream and the paths of one type of object.

    Attributes:
        name: The value of the objects' ``object`` field.
        stream: The stream that holds them as records.
        path: The path to list them, and to retrieve them by id. ``{id}`` in it stands for the id of
            another object.
        is_retrievable: Whether a call retrieves one by its id.
        items: The streams of the items in their lists, each with the field of the list:
            ``{"subscription_items": "items"}`` for subscriptions.
    """

    name: str
    stream: str
    path: str
    items: Mapping[str, str]
    is_retrievable: bool = True


@cache
def object_types() -> Mapping[str, ObjectType]:
    """Return every type that a stream holds, by name; computed once from the catalog.

    The first call takes as long as that of ``load_resources``.
    """
    streams = load_resources()
    found: dict[str, ObjectType] = {}
    # Shortest path first: if two lists hold objects of one type, the plain one is used.
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
