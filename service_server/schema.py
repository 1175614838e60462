"""Reads a connector's JSON Schema for the fields that are secret."""

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
# Names of properties and indexes of lists, outermost first.
Path = tuple[str | int, ...]


def secret_paths(schema: Schema, config: Any) -> set[Path]:
    """Where ``config`` has a value that ``schema`` marks ``writeOnly``."""
    return set(_secrets(schema, schema, config, ()))


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
