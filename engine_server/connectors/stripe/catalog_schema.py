"""The JSON Schema of a resource, from the annotations of its class in the ``stripe`` package."""

from decimal import Decimal
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

_JSON_TYPES: dict[type[Any], str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    # Travels as a string, so that no digit is lost.
    Decimal: "string",
    list: "array",
}


def json_schema(resource: type[Any]) -> dict[str, Any]:
    """The schema of one record: one level deep, every field nullable.

    What is deeper is ``object`` or ``array``; a reference that can be expanded is its id.
    """
    # Python keywords have another name in the class than in the API: "from_" is "from".
    wire_names: dict[str, str] = resource._field_remappings
    # An encoded field (a decimal, a 64-bit integer) travels as a string whatever its annotation.
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
    """Whether it is an id or, expanded, an object (https://docs.stripe.com/api/expanding_objects).

    A list of references is none: it stays a list of what was sent.
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
