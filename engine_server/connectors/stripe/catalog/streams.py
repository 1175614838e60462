"""Streams of the Stripe source, and how each is listed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from threading import Lock
from types import MappingProxyType
from typing import Literal

from google.protobuf.json_format import ParseDict

from engine_server.connectors.stripe.catalog.endpoints import (
    ListEndpoint,
    list_endpoints,
)
from engine_server.connectors.stripe.catalog.endpoints import (
    stream_name as stream_name,
)
from engine_server.connectors.stripe.catalog.exceptions import (
    CREATED_FIELDS,
    NESTED_LISTS,
    NOT_SHOWN,
    OWN_LIMITS,
    OWNERS,
    SHOW_ALL,
    NestedList,
)
from engine_server.connectors.stripe.catalog.left_out import LEFT_OUT
from engine_server.connectors.stripe.catalog.omissions import OMISSIONS, UnknownForm
from engine_server.connectors.stripe.catalog.schema import json_schema, reference_fields
from pipesync.v1.catalog_pb2 import Stream

# True in the record of a deleted object.
DELETED_FIELD = "deleted"

_LOADING = Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """How one stream is listed.

    The records of most streams are the objects of a list. Those of some (``subscription_items``)
    are the items of a list inside them. All attributes but ``stream`` and ``nested_field`` then
    describe the list of their parents (``/v1/subscriptions``), so their time range is that of the
    parents' creation.

    Attributes:
        stream: The stream as returned by discover.
        path: The list's URL path, e.g. ``/v1/checkout/sessions``.
        nested_field: The list inside each listed object whose items are the records; empty if the
            listed objects are.
        parent_field: The field of such an item that names the listed object; empty without one.
        record_path: The path to retrieve a record by its id. ``{id}`` in it stands for the id of
            the listed object.
        api: The paging style of the list.
        list_params: Parameters of every page, e.g. ``{"status": "all"}`` for subscriptions.
        takes_limit: Whether the list has a ``limit``. A list without one returns all objects.
        created_param: The filter for a backfill window (``created``); empty if the list cannot be
            filtered by time.
        created_field: The field with the object's creation time: in Unix seconds if there is such a
            filter, otherwise possibly in another form or absent.
        owner_field: The parameter and record field that name the owner of the items: ``customer``.
            Empty for most.
    """

    stream: Stream
    path: str
    nested_field: str
    parent_field: str
    record_path: str
    api: Literal["v1", "v2"]
    list_params: Mapping[str, str]
    takes_limit: bool
    created_param: str
    created_field: str
    owner_field: str = ""

    @property
    def has_history(self) -> bool:
        """Whether it can be read from the start; otherwise only events fill it."""
        return not self.owner_field


def api_version() -> str:
    """Return the API version of the installed ``stripe`` package, e.g. ``2026-10-28.endive``."""
    from stripe._api_version import _ApiVersion

    return _ApiVersion.CURRENT


def load_resources() -> Mapping[str, Resource]:
    """Return every stream, ordered by name; computed once per process, without network.

    The first call imports many modules and takes about a second, so it should run in a thread.
    """
    # Concurrent callers wait instead of computing the same.
    with _LOADING:
        return _resources()


def unavailable_streams() -> Mapping[str, str]:
    """Return the streams missing because of an unsupported form in the package, with reasons."""
    load_resources()
    return OMISSIONS.streams


@cache
def _resources() -> Mapping[str, Resource]:
    endpoints = list_endpoints()
    if endpoints:
        try:
            api_version()
        except Exception as error:
            OMISSIONS.add("stripe", error)
            endpoints = {}
    found: dict[str, Resource] = {}
    # Lists inside objects first, because their names are fixed.
    for path, inside in NESTED_LISTS.items() if endpoints else ():
        _add(found, path, inside.stream, partial(_nested, endpoints, path, inside))
    for path, endpoint in endpoints.items():
        if _can_be_asked_for(endpoint) and path not in LEFT_OUT and path not in NESTED_LISTS:
            name = stream_name(path)
            _add(found, path, name, partial(_resource, name, endpoint, endpoint))
    return MappingProxyType(dict(sorted(found.items())))


def _add(found: dict[str, Resource], path: str, name: str, make: Callable[[], Resource]) -> None:
    """Add a stream, unless its form in the package is unsupported."""
    if name in found:
        OMISSIONS.add(path, f"{found[name].path} has a stream of that name already")
        return
    try:
        found[name] = make()
    except Exception as error:
        OMISSIONS.add(path, error, streams=[name])


def _nested(endpoints: Mapping[str, ListEndpoint], path: str, inside: NestedList) -> Resource:
    """Return the stream of a list inside objects, which this package may lack."""
    for one in (inside.parent, path):
        if one not in endpoints:
            raise UnknownForm(f"this version of the stripe package has no list {one}")
    parent = endpoints[inside.parent]
    if inside.field not in parent.object_class().__annotations__:
        raise UnknownForm(f"the objects of {inside.parent} have no {inside.field}")
    return _resource(inside.stream, parent, endpoints[path], inside)


def _can_be_asked_for(endpoint: ListEndpoint) -> bool:
    """Return whether the list needs no owner's id, or events report its items."""
    known = {*SHOW_ALL.get(endpoint.path, {}), OWNERS.get(endpoint.path)}
    return "{" not in endpoint.path and endpoint.required_params <= known


def _resource(
    name: str, listing: ListEndpoint, endpoint: ListEndpoint, inside: NestedList | None = None
) -> Resource:
    """Return the stream of ``endpoint``'s objects, which are read from ``listing``."""
    nested_field = inside.field if inside else ""
    created_field = CREATED_FIELDS.get(listing.path, "created")
    # A window needs objects that always have a creation time in Unix seconds: v2 objects have it as
    # text, connected accounts not always, trial offers never.
    tells_time = listing.object_class().__annotations__.get(created_field) is int
    in_windows = "created" in listing.optional_params and tells_time
    schema = json_schema(endpoint.object_class())
    if "id" not in schema["properties"]:
        raise UnknownForm("its objects have no id")
    # Few classes have the field, but any object that Stripe no longer shows is marked as deleted.
    schema["properties"].setdefault(DELETED_FIELD, {"type": ["boolean", "null"]})
    owner_field = OWNERS.get(listing.path, "")
    if owner_field:
        schema["properties"][owner_field] = {"type": ["string", "null"]}
    stream = ParseDict(
        {
            "name": name,
            # Two accounts may share a table, and users choose some ids (coupons, plans).
            "primary_key": [{"segments": ["id"]}, {"segments": ["_account_id"]}],
            "json_schema": schema,
            "metadata": {
                "api_version": api_version(),
                "path": listing.path,
                "note": _note(listing, nested_field),
            },
            "newer_than_field": "_updated_at",
            "soft_delete_field": DELETED_FIELD,
            "supports_time_range": in_windows,
            "time_range_field": created_field if tells_time and not nested_field else "",
            "owner_field": inside.parent_field if inside else owner_field,
            "reference_fields": reference_fields(endpoint.object_class()),
        },
        Stream(),
    )
    return Resource(
        stream=stream,
        path=listing.path,
        nested_field=nested_field,
        parent_field=inside.parent_field if inside else "",
        record_path=endpoint.path,
        api="v2" if listing.path.startswith("/v2/") else "v1",
        list_params=SHOW_ALL.get(listing.path, {}),
        takes_limit="limit" in listing.optional_params and listing.path not in OWN_LIMITS,
        created_param="created" if in_windows else "",
        created_field=created_field,
        owner_field=owner_field,
    )


def _note(listing: ListEndpoint, nested_field: str) -> str:
    """Return a note for users who select the stream; empty for most."""
    notes = []
    if nested_field:
        parents = stream_name(listing.path)
        notes.append(f"the {nested_field} of {parents}; time ranges are about {parents}")
    if listing.path in OWNERS:
        notes.append("filled by events alone: what was before the first one is not read")
    if listing.path in NOT_SHOWN:
        notes.append(f"without {NOT_SHOWN[listing.path]}")
    return "; ".join(notes)
