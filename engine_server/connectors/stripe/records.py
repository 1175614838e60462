"""Stripe's JSON, in and out: bodies become objects, objects become stamped records."""

import json
from typing import Any

import orjson

_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")
# The shortest number that may not fit into 64 bits.
_LONG_NUMBER = b"0" * 19


def decode(body: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not JSON, cut off perhaps.
    """
    # orjson turns an integer beyond 64 bits into a float without a word. The standard library does
    # not, and is slow.
    if _LONG_NUMBER in body.translate(_DIGITS_TO_ZERO):
        return json.loads(body)
    return orjson.loads(body)


def encode(record: dict[str, Any], *, account_id: str, received_at: int) -> bytes:
    """One record as UTF-8 JSON, stamped with where it is from and how new it is.

    Args:
        record: The object as Stripe sent it; the stamps are added to it.
        account_id: Becomes ``_account_id``.
        received_at: Unix seconds of the answer that held it: becomes ``_updated_at`` unless the
            object itself says when it was ``updated``.
    """
    updated = record.get("updated")
    record["_account_id"] = account_id
    record["_updated_at"] = updated if type(updated) is int else received_at
    try:
        return orjson.dumps(record)
    except TypeError:
        # An integer beyond 64 bits.
        return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
