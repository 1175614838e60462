"""Reads a connector's JSON Schema: which of its fields are secret, and which are wrong."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from pipesync_rpc.errors import FieldViolation

Schema = Mapping[str, Any]
# Names of properties and indexes of lists, outermost first.
Path = tuple[str | int, ...]

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}


def secret_paths(schema: Schema, config: Any) -> set[Path]:
    """Where ``config`` has a value that ``schema`` marks ``writeOnly``."""
    return set(_secrets(schema, schema, config, ()))


def violations(schema: Schema, config: Any, field: str) -> list[FieldViolation]:
    """Every field of ``config`` that is missing, unknown, or of another type.

    The engine knows more than these three; it has the last word when the connector is used.

    Args:
        schema: The connector's.
        config: What the caller sent.
        field: Where it stands in the request, e.g. ``pipeline.config.source.config``.
    """
    return list(_violations(schema, schema, config, field))


def _secrets(root: Schema, node: Schema, value: Any, path: Path) -> Iterator[Path]:
    node = _resolved(root, node)
    if node.get("writeOnly") is True:
        if value is not None:
            yield path
        return
    for option in _options(node):
        yield from _secrets(root, option, value, path)
    for name, inner_node, inner in _members(node, value):
        yield from _secrets(root, inner_node, inner, (*path, name))


def _violations(root: Schema, node: Schema, value: Any, field: str) -> Iterator[FieldViolation]:
    node = _resolved(root, node)
    options = list(_options(node))
    if options:
        tried = [list(_violations(root, option, value, field)) for option in options]
        if all(tried):
            yield from min(tried, key=len)
        return
    expected = node.get("type")
    if isinstance(expected, str) and not _is(value, expected):
        yield FieldViolation(field, f"must be of type {expected}")
        return
    if "enum" in node and value not in node["enum"]:
        choices = ", ".join(str(choice) for choice in node["enum"])
        yield FieldViolation(field, f"must be one of: {choices}")
    if isinstance(value, dict):
        yield from _missing_and_unknown(node, value, field)
    for name, inner_node, inner in _members(node, value):
        inner_field = f"{field}[{name}]" if isinstance(name, int) else f"{field}.{name}"
        yield from _violations(root, inner_node, inner, inner_field)


def _missing_and_unknown(
    node: Schema, value: Mapping[str, Any], field: str
) -> Iterator[FieldViolation]:
    known = sorted(node.get("properties", {}))
    for name in node.get("required", ()):
        if name not in value:
            yield FieldViolation(f"{field}.{name}", "is required")
    if node.get("additionalProperties") is False:
        for name in sorted(set(value) - set(known)):
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(known)}"
            yield FieldViolation(f"{field}.{name}", f"is not a field of this connector; {hint}")


def _members(node: Schema, value: Any) -> Iterator[tuple[str | int, Schema, Any]]:
    """The parts of ``value`` that ``node`` says something about."""
    if isinstance(value, dict):
        properties = node.get("properties", {})
        for name, inner in value.items():
            inner_node = properties.get(name, node.get("additionalProperties"))
            if isinstance(inner_node, dict):
                yield name, inner_node, inner
    elif isinstance(value, list) and isinstance(node.get("items"), dict):
        for index, inner in enumerate(value):
            yield index, node["items"], inner


def _options(node: Schema) -> Iterator[Schema]:
    for keyword in ("anyOf", "oneOf", "allOf"):
        yield from node.get(keyword, ())


def _resolved(root: Schema, node: Schema) -> Schema:
    reference = node.get("$ref", "")
    if not reference.startswith("#/"):
        return node
    target: Any = root
    for part in reference.removeprefix("#/").split("/"):
        target = target[part]
    # What stands beside a reference counts too.
    return {**target, **{key: value for key, value in node.items() if key != "$ref"}}


def _is(value: Any, expected: str) -> bool:
    if isinstance(value, bool):
        return expected == "boolean"
    if expected == "integer":
        return isinstance(value, int | float) and float(value).is_integer()
    return isinstance(value, _TYPES.get(expected, (object,)))
