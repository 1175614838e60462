"""Effect of an update on an object, and the previous attributes that its events report.

Rules: https://docs.stripe.com/api/metadata and https://docs.stripe.com/api/events/object
"""

from collections.abc import Mapping
from typing import Any

Document = dict[str, Any]


def merged(document: Mapping[str, Any], fields: Mapping[str, Any]) -> Document:
    """Return the object with these fields: merge hashes by key, replace all else.

    An unset key of ``metadata`` is removed; any other unset field stays as null.
    """
    result = dict(document)
    for name, value in fields.items():
        before = result.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping) and not _is_list(before):
            value = merged(before, value)
        if name == "metadata":
            value = {key: text for key, text in (value or {}).items() if text is not None}
        result[name] = value
    return result


def previous_attributes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Document:
    """Return the former values that changed: the changed keys of a hash, the whole of an array."""
    previous: Document = {}
    for name in {**before, **after}:
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping) and not _is_list(old):
            previous[name] = previous_attributes(old, new)
        else:
            previous[name] = old
    return previous


def without_list_facts(previous: Mapping[str, Any]) -> Document:
    """Return the same attributes with each list reduced to its first former items."""
    return {
        name: {"data": value["data"]} if isinstance(value, Mapping) and _is_list(value) else value
        for name, value in previous.items()
    }


def _is_list(value: Mapping[str, Any]) -> bool:
    return value.get("object") == "list"
