"""The records that the objects of events make."""

from typing import Any, TypeAlias

from engine_server import exact_json

# The name of a stream, and a record of it: UTF-8 JSON.
StreamRecord: TypeAlias = tuple[str, bytes]


def record_of(fields: dict[str, Any], *, account_id: str, created: int) -> bytes:
    """The record of an object that an event brought, stamped as that of a listed one is.

    ``_updated_at`` is the second of the event, whatever the object says of its own last update.
    That holds for one that was fetched because of the event, too, though it may be newer: whatever
    changed it since has an event of its own, which a later time would have the destination skip.

    Args:
        fields: The object; left as it is.
        account_id: The account that it is of.
        created: When the event was made, in Unix seconds.
    """
    return exact_json.encode({**fields, "_account_id": account_id, "_updated_at": created})
