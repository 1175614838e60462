"""The streams of the Stripe source, and how each is listed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from threading import Lock
from types import MappingProxyType
from typing import Literal

from google.protobuf.json_format import ParseDict

from engine_server.connectors.stripe.catalog_endpoints import (
    ListEndpoint,
    list_endpoints,
)
from engine_server.connectors.stripe.catalog_endpoints import (
    stream_name as stream_name,
)
from engine_server.connectors.stripe.catalog_exceptions import (
    CREATED_FIELDS,
    NESTED_LISTS,
    NOT_SHOWN,
    OWN_LIMITS,
    OWNERS,
    SHOW_ALL,
    NestedList,
)
from engine_server.connectors.stripe.catalog_left_out import LEFT_OUT
from engine_server.connectors.stripe.catalog_omissions import OMISSIONS, UnknownForm
from engine_server.connectors.stripe.catalog_schema import json_schema, reference_fields
from pipesync.v1.catalog_pb2 import Stream

# True on the record of an object that is there no more.
DELETED_FIELD = "deleted"

_LOADING = Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """How one stream is listed.

    The records of most streams are the objects of a list. Those of some (``subscription_items``)
    are the items of a list inside them: all but ``stream`` and ``nested_field`` then tells of the
    list of their parents (``/v1/subscriptions``), so their time range is that of the parents'
    creation.

    Attributes:
        stream: What discover answers.
        path: The list's URL path, e.g. ``/v1/checkout/sessions``.
        nested_field: The list inside each listed object whose items are the records; empty when
            the listed objects are.
        parent_field: The field of such an item that names the listed object; empty when there are
            none.
        record_path: Where a record is retrieved, by its id behind this path. It holds ``{id}``
            where that of the listed object belongs.
        api: Which of Stripe's two paging styles the list has.
        list_params: Sent with every page, e.g. ``{"status": "all"}`` for subscriptions.
        takes_limit: Whether the list can be told how many objects to give. One that cannot gives
            all of them.
        created_param: The list filter that a backfill window is given in (``created``); empty when
            the list cannot be filtered by time.
        created_field: The field of the object that says when it was made: in Unix seconds where
            there is such a filter, perhaps in another form or not at all where there is none.
        owner_field: What the list must be told whose items to list, and what the records say it by:
            ``customer``. Empty for most.
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
        """Whether it can be read from the start; else only events fill it."""
        return not self.owner_field


def api_version() -> str:
    """The API version that the installed ``stripe`` package speaks, e.g. ``2026-10-28.endive``."""
    from stripe._api_version import _ApiVersion

    return _ApiVersion.CURRENT


def load_resources() -> Mapping[str, Resource]:
    """Every stream by name, ordered by name; worked out once per process, without the network.

    The first call imports much, and takes about a second: a thread is the place for it.
    """
    # Those that call meanwhile wait for it rather than do the same.
    with _LOADING:
        return _resources()


def left_out_streams() -> Mapping[str, str]:
    """Why each stream is missing that the installed package has in a form unknown here, by name."""
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
    # Lists inside objects first: their names are taken.
    for path, inside in NESTED_LISTS.items() if endpoints else ():
        _add(found, path, inside.stream, partial(_nested, endpoints, path, inside))
    for path, endpoint in endpoints.items():
        if _can_be_asked_for(endpoint) and path not in LEFT_OUT and path not in NESTED_LISTS:
            name = stream_name(path)
            _add(found, path, name, partial(_resource, name, endpoint, endpoint))
    return MappingProxyType(dict(sorted(found.items())))


def _add(found: dict[str, Resource], path: str, name: str, make: Callable[[], Resource]) -> None:
    """Adds a stream, unless the package has it in a form unknown here."""
    if name in found:
        OMISSIONS.add(path, f"{found[name].path} has a stream of that name already")
        return
    try:
        found[name] = make()
    except Exception as error:
        OMISSIONS.add(path, error, streams=[name])


def _nested(endpoints: Mapping[str, ListEndpoint], path: str, inside: NestedList) -> Resource:
    """The stream of a list inside objects, which this package may not have."""
    for one in (inside.parent, path):
        if one not in endpoints:
            raise UnknownForm(f"this version of the stripe package has no list {one}")
    parent = endpoints[inside.parent]
    if inside.field not in parent.object_class().__annotations__:
        raise UnknownForm(f"the objects of {inside.parent} have no {inside.field}")
    return _resource(inside.stream, parent, endpoints[path], inside)


def _can_be_asked_for(endpoint: ListEndpoint) -> bool:
    """Whether it needs no id of an object that its items belong to, or events tell of these."""
    known = {*SHOW_ALL.get(endpoint.path, {}), OWNERS.get(endpoint.path)}
    return "{" not in endpoint.path and endpoint.required_params <= known


def _resource(
    name: str, listing: ListEndpoint, endpoint: ListEndpoint, inside: NestedList | None = None
) -> Resource:
    """The stream of ``endpoint``'s objects, which are read from ``listing``."""
    nested_field = inside.field if inside else ""
    created_field = CREATED_FIELDS.get(listing.path, "created")
    # A window needs objects that always say, in Unix seconds, where in it they stand: v2 objects
    # say it as text, connected accounts not always, trial offers never.
    tells_time = listing.object_class().__annotations__.get(created_field) is int
    in_windows = "created" in listing.optional_params and tells_time
    schema = json_schema(endpoint.object_class())
    if "id" not in schema["properties"]:
        raise UnknownForm("its objects have no id")
    # Few classes have it, but whatever Stripe no longer shows is said to be deleted.
    schema["properties"].setdefault(DELETED_FIELD, {"type": ["boolean", "null"]})
    owner_field = OWNERS.get(listing.path, "")
    if owner_field:
        schema["properties"][owner_field] = {"type": ["string", "null"]}
    stream = ParseDict(
        {
            "name": name,
            # Two accounts may share a table, and some ids (coupons, plans) are chosen by people.
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
    """What a person should know before selecting a stream; empty for most."""
    notes = []
    if nested_field:
        parents = stream_name(listing.path)
        notes.append(f"the {nested_field} of {parents}; time ranges are about {parents}")
    if listing.path in OWNERS:
        notes.append("filled by events alone: what was before the first one is not read")
    if listing.path in NOT_SHOWN:
        notes.append(f"without {NOT_SHOWN[listing.path]}")
    return "; ".join(notes)
