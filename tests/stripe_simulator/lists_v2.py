"""Pages of v2 lists: newest first, by opaque page tokens, at most 20 objects a page.

Rules: https://docs.stripe.com/api-v2-overview
"""

import base64
import binascii
import sys
from collections.abc import Mapping
from urllib.parse import urlencode

import orjson

from engine_server.connectors.stripe.catalog.endpoints import ListEndpoint
from tests.stripe_simulator import errors
from tests.stripe_simulator.hidden import asks_for_all, shown
from tests.stripe_simulator.objects import Key, ObjectList

_PAGING = frozenset({"limit", "page"})
_LARGEST_LIMIT = 20
_NEWEST: Key = (sys.maxsize, 0)
_OLDEST: Key = (-1, 0)


def list_page(endpoint: ListEndpoint, objects: ObjectList, query: Mapping[str, str]) -> bytes:
    """Return the JSON of one page.

    Raises:
        Refusal: A parameter is unknown or bad.
    """
    for param, value in query.items():
        if param not in _PAGING and not asks_for_all(endpoint.path, param, value):
            raise errors.unknown_parameter(param)
    limit = query.get("limit", str(_LARGEST_LIMIT))
    if not limit.isdigit() or not 1 <= int(limit) <= _LARGEST_LIMIT:
        raise errors.invalid_request(
            400, f"limit must be between 1 and {_LARGEST_LIMIT}.", param="limit"
        )
    before = _NEWEST if "page" not in query else _key(query["page"])
    page, has_more = shown(endpoint.path, objects, query).page_before(_OLDEST, before, int(limit))
    next_page_url = None
    if has_more:
        next_query = urlencode({**query, "limit": limit, "page": _token(page[-1].key)})
        next_page_url = f"{endpoint.path}?{next_query}"
    return b'{"data":[%s],"next_page_url":%s,"previous_page_url":null}' % (
        b",".join(item.body for item in page),
        orjson.dumps(next_page_url),
    )


def _token(key: Key) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(key)).decode()


def _key(token: str) -> Key:
    try:
        second, number = orjson.loads(base64.urlsafe_b64decode(token))
    except (binascii.Error, ValueError, TypeError):
        raise errors.invalid_request(
            400, "The page token is not valid.", code="invalid_page_token", param="page"
        ) from None
    return (second, number)
