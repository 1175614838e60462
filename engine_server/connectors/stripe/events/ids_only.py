"""Ids, the part of an event that is the same in every API version."""

from collections.abc import Mapping
from typing import Any


def ids_only(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce an object, or its previous attributes, to its id and those of the items of its lists.

    Args:
        fields: The object in any API version; it is not changed.

    Returns:
        ``{"id": "sub_1", "object": "subscription", "items": {"data": [{"id": "si_1", ...}]}}``
    """
    lists = {
        name: _ids_of_list(value)
        for name, value in fields.items()
        if isinstance(value, Mapping) and isinstance(value.get("data"), list)
    }
    return {**_identity(fields), **lists}


def _ids_of_list(found: Mapping[str, Any]) -> dict[str, Any]:
    items = [_identity(item) for item in found["data"] if isinstance(item, Mapping)]
    # Signs of truncation are the same in every version, too; a list need not have them.
    facts = {name: found[name] for name in ("has_more", "total_count") if name in found}
    return {"data": items, **facts}


def _identity(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: fields[name] for name in ("id", "object") if isinstance(fields.get(name), str)}
