"""The streams of the Stripe source, and how each is listed."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal

from google.protobuf.json_format import ParseDict

from pipesync.v1.catalog_pb2 import Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """How one stream is listed.

    Attributes:
        stream: What discover answers.
        path: The list's URL path, e.g. ``/v1/checkout/sessions``.
        api: Which of Stripe's two paging styles the list has.
        list_params: Sent with every page, e.g. ``{"status": "all"}`` for subscriptions.
        created_param: The list filter that a backfill window is given in (``created``); empty when
            the list cannot be filtered by time.
        created_field: The field of the object that this filter looks at (Unix seconds).
    """

    stream: Stream
    path: str
    api: Literal["v1", "v2"]
    list_params: Mapping[str, str]
    created_param: str
    created_field: str


def api_version() -> str:
    """The API version that the installed ``stripe`` package speaks, e.g. ``2026-10-28.endive``."""
    from stripe._api_version import _ApiVersion

    return _ApiVersion.CURRENT


def stream_name(path: str) -> str:
    """The stream of a list: ``/v1/checkout/sessions`` is ``checkout_sessions``.

    A v2 list keeps its version in its name (``v2_core_accounts``), so that names stay unique.
    """
    return path.removeprefix("/v1").strip("/").replace("/", "_")


@cache
def load_resources() -> Mapping[str, Resource]:
    """Every stream by name, ordered by name; worked out once per process, without the network."""
    paths = {
        "/v1/charges": True,
        "/v1/coupons": True,
        "/v1/customers": True,
        "/v1/invoices": True,
        "/v1/payment_methods": False,
        "/v1/prices": True,
        "/v1/products": True,
        "/v1/subscriptions": True,
    }
    resources = {stream_name(path): _resource(path, paths[path]) for path in sorted(paths)}
    return MappingProxyType(resources)


def _resource(path: str, filterable: bool) -> Resource:
    name = stream_name(path)
    stream = ParseDict(
        {
            "name": name,
            "primary_key": [{"segments": ["id"]}, {"segments": ["_account_id"]}],
            "json_schema": {
                "type": "object",
                "properties": {
                    "id": {"type": ["string", "null"]},
                    "object": {"type": ["string", "null"]},
                    "created": {"type": ["integer", "null"]},
                    "metadata": {"type": ["object", "null"]},
                },
            },
            "metadata": {"api_version": api_version()},
            "newer_than_field": "_updated_at",
            "supports_time_range": filterable,
        },
        Stream(),
    )
    return Resource(
        stream=stream,
        path=path,
        api="v1",
        list_params={"status": "all"} if name == "subscriptions" else {},
        created_param="created" if filterable else "",
        created_field="created",
    )
