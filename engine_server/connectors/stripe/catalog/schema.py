"""JSON Schema of a resource, from the annotations of its class in the ``stripe`` package."""

from decimal import Decimal
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

_JSON_TYPES: dict[type[Any], str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    # Sent as a string, which keeps every digit.
    Decimal: "string",
    list: "array",
}


def json_schema(resource: type[Any]) -> dict[str, Any]:
    """Return the schema of one record: one level deep, every field nullable.

    Deeper values are ``object`` or ``array``; an expandable reference is its id.
    """
    # Fields named like Python keywords differ between class and API: "from_" is "from".
    wire_names: dict[str, str] = resource._field_remappings
    # An encoded field (a decimal, a 64-bit integer) is sent as a string, despite its annotation.
    encoded: dict[str, str] = resource._field_encodings
    return {
        "type": "object",
        "properties": {
            wire_names.get(field, field): {
                "type": ["string" if field in encoded else _json_type(annotation), "null"]
            }
            for field, annotation in resource.__annotations__.items()
            if not _is_class_variable(annotation)
        },
    }


def reference_fields(resource: type[Any]) -> list[str]:
    """Return the fields of a record that are an id or, expanded, an object, by name."""
    wire_names: dict[str, str] = resource._field_remappings
    return sorted(
        wire_names.get(field, field)
        for field, annotation in resource.__annotations__.items()
        if _is_reference(annotation)
    )


def _is_class_variable(annotation: Any) -> bool:
    origin: Any = get_origin(annotation)
    return origin is ClassVar


def _is_reference(annotation: Any) -> bool:
    """Return whether it is an id or, expanded, an object.

    See https://docs.stripe.com/api/expanding_objects. A list of references stays a list as it was
    sent.
    """
    return get_origin(annotation) in (Union, UnionType) and {"string", "object"} <= {
        _json_type(arm) for arm in get_args(annotation) if arm is not NoneType
    }


def _json_type(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return _json_type(type(get_args(annotation)[0]))
    if origin in (Union, UnionType):
        kinds = {_json_type(arm) for arm in get_args(annotation) if arm is not NoneType}
        if len(kinds) == 1:
            return kinds.pop()
        # A reference is its id or, expanded, the object; a list expands none unless asked to.
        return "string" if "string" in kinds else "object"
    return _JSON_TYPES.get(origin or annotation, "object")
