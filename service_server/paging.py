"""Pages of a list: how many entries, and after which one."""

import base64
import binascii
import json

from pipesync_rpc.errors import FieldViolation
from service_server.errors import InvalidRequest

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000


def page_size(asked: int) -> int:
    """How many entries a page has.

    Raises:
        InvalidRequest: a negative number was asked for.
    """
    if asked < 0:
        raise InvalidRequest(
            [FieldViolation("page_size", f"must be 0, for {DEFAULT_PAGE_SIZE}, or more")]
        )
    return min(asked or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def page_token(*position: str) -> str:
    """An opaque token for the page after ``position``."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode()


def parse_page_token(token: str, length: int) -> list[str]:
    """The position that ``page_token`` was given.

    Args:
        token: What the caller sent; not empty.
        length: How many parts the position has.

    Raises:
        InvalidRequest: the token is not one of ours.
    """
    try:
        position = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        position = None
    if (
        not isinstance(position, list)
        or len(position) != length
        or not all(isinstance(part, str) for part in position)
    ):
        raise bad_page_token()
    return position


def bad_page_token() -> InvalidRequest:
    """What is answered to a token that no earlier answer held."""
    return InvalidRequest(
        [FieldViolation("page_token", "must be the next_page_token of an earlier answer, or empty")]
    )
