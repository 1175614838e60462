"""Stripe's objects as records: stamped with where they are from and how new they are."""

from typing import Any

from engine_server import exact_json


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
    return exact_json.encode(record)
