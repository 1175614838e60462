"""Form-encoded bodies of writes: all values are text, and brackets mark nested parameters.

Rules: https://docs.stripe.com/api (requests), https://docs.stripe.com/api/metadata and how the
``stripe`` package encodes parameters.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tests.stripe_simulator import errors

Fields = dict[str, Any]


def decode(pairs: Iterable[tuple[str, str]]) -> Fields:
    """Return the nested parameters: ``items[0][price]=p`` is ``{"items": [{"price": "p"}]}``.

    Raises:
        Refusal: A parameter is both a value and nested.
    """
    fields: Fields = {}
    for name, value in pairs:
        first, *others = _keys(name)
        node, key = fields, first
        for other in others:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise errors.invalid_request(400, f"Invalid hash: {name}", param=first)
            key = other or str(len(node))
        node[key] = value
    return {name: value if name == "metadata" else _arrays(value) for name, value in fields.items()}


def typed(fields: Fields, properties: Mapping[str, Any], like: Mapping[str, Any]) -> Fields:
    """Return the parameters converted to the types of the object's fields; empty text unsets.

    Args:
        fields: Parameters as text.
        properties: The object's JSON Schema properties, one level deep.
        like: Object whose values show the types of deeper levels.

    Raises:
        Refusal: The object has no such field, or the text is not a number.
    """
    result = {}
    for name, value in fields.items():
        if name not in properties:
            raise errors.unknown_parameter(name)
        kind = properties[name]["type"][0]
        result[name] = _typed(name, value, kind, like.get(name))
    return result


def _keys(name: str) -> list[str]:
    first, _, rest = name.partition("[")
    return [first, *re.findall(r"([^\[\]]*)\]", rest)]


def _arrays(value: Any) -> Any:
    """Convert hashes whose keys are all numbers to arrays."""
    if not isinstance(value, dict):
        return value
    values = {key: _arrays(item) for key, item in value.items()}
    if all(key.isdecimal() for key in values):
        return [values[key] for key in sorted(values, key=int)]
    return values


def _typed(name: str, value: Any, kind: str, like: Any) -> Any:
    if isinstance(value, dict):
        inner = like if isinstance(like, dict) else {}
        return {key: _typed(name, item, "", inner.get(key)) for key, item in value.items()}
    if isinstance(value, list):
        first = like[0] if isinstance(like, list) and like else None
        return [_typed(name, item, "", first) for item in value]
    if value == "":
        return None
    if kind == "boolean" or isinstance(like, bool):
        return value == "true"
    try:
        if kind == "integer" or isinstance(like, int):
            return int(value)
        if kind == "number" or isinstance(like, float):
            return float(value)
    except ValueError:
        raise errors.invalid_request(
            400, f"Invalid integer: {value}", code="parameter_invalid_integer", param=name
        ) from None
    return value
