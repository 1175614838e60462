"""Page sizes and page tokens of lists."""

import base64
import binascii
import json
from collections.abc import Sequence

from google.protobuf.message import Message

from pipesync_rpc.errors import FieldViolation
from service_server.errors import InvalidRequest
from service_server.store.page_bytes import PAGE_BYTES

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
# Characters of a token, far above those of the longest position.
_MOST_TOKEN = 4096


def page_size(asked: int) -> int:
    """Return the number of entries of a page.

    Raises:
        InvalidRequest: ``asked`` is negative.
    """
    if asked < 0:
        raise InvalidRequest(
            [FieldViolation("page_size", f"must be 0, for {DEFAULT_PAGE_SIZE}, or more")]
        )
    return min(asked or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def fitting(entries: Sequence[Message]) -> int:
    """Return how many of the first entries fit into one response; at least one."""
    size = 0
    for count, entry in enumerate(entries):
        size += entry.ByteSize()
        if count and size > PAGE_BYTES:
            return count
    return len(entries)


def page_token(*position: str) -> str:
    """Return an opaque token for the page after ``position``."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode()


def parse_page_token(token: str, length: int) -> list[str]:
    """Return the position that a page token was made from.

    Args:
        token: The request's token; not empty.
        length: Number of elements of the position.

    Raises:
        InvalidRequest: The service did not issue the token.
    """
    if len(token) > _MOST_TOKEN:
        raise bad_page_token()
    try:
        position = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        position = None
    if (
        not isinstance(position, list)
        or len(position) != length
        or not all(isinstance(part, str) and _is_storable(part) for part in position)
    ):
        raise bad_page_token()
    return position


def _is_storable(text: str) -> bool:
    """Return whether Postgres can store the text: JSON may hold NUL and lone surrogates."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def bad_page_token() -> InvalidRequest:
    """Return the error for a page token that no earlier response held."""
    return InvalidRequest(
        [FieldViolation("page_token", "must be the next_page_token of an earlier answer, or empty")]
    )
