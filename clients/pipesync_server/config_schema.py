"""Secret fields in a connector's JSON Schema.

A secret is a value that the schema marks ``writeOnly``. The keyword ``sentTo``, in the same schema
or in an enclosing one, lists the top-level properties that determine where the secret is sent, or
that weaken the security of the connection. The secret is bound to these properties; without the
keyword it is bound to every property.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
# Names of properties and indexes of lists, outermost first.
Path = tuple[str | int, ...]
# The properties that a secret is bound to; None for all of them.
Binding = frozenset[str] | None


def secret_paths(schema: Schema, config: Any) -> set[Path]:
    """Return the paths of the values of ``config`` that ``schema`` marks ``writeOnly``."""
    return set(secret_bindings(schema, config))


def secret_bindings(schema: Schema, config: Any) -> Mapping[Path, Binding]:
    """Return the paths of the secrets of ``config``, with the properties that each is bound to."""
    found: dict[Path, Binding] = {}
    for path, binding in _secrets(schema, schema, config, (), None):
        before = found.get(path, frozenset())
        found[path] = None if binding is None or before is None else binding | before
    return found


def changed_properties(
    schema: Schema, before: Mapping[str, Any], after: Mapping[str, Any]
) -> set[str]:
    """Return the top-level properties that differ after the schema's defaults are filled in."""
    properties = schema.get("properties", {})
    defaults = {
        name: _resolved(schema, node).get("default")
        for name, node in properties.items()
        if isinstance(node, dict)
    }

    def value(config: Mapping[str, Any], name: str) -> str:
        found = config.get(name)
        # Compared as JSON, because True == 1 in Python.
        return json.dumps(defaults.get(name) if found is None else found, sort_keys=True)

    names = {*properties, *before, *after}
    return {name for name in names if value(before, name) != value(after, name)}


def _secrets(
    root: Schema, node: Schema, value: Any, path: Path, binding: Binding
) -> Iterator[tuple[Path, Binding]]:
    node = _resolved(root, node)
    if "sentTo" in node:
        binding = _binding(root, node["sentTo"])
    if node.get("writeOnly") is True:
        if value is not None:
            yield path, binding
        return
    for option in _options(node):
        yield from _secrets(root, option, value, path, binding)
    for name, inner_node, inner in _members(node, value):
        yield from _secrets(root, inner_node, inner, (*path, name), binding)


def _binding(root: Schema, names: Any) -> Binding:
    """Return the binding by ``sentTo``; all properties if it lists a name that is no property."""
    properties = root.get("properties", {})
    if isinstance(names, list) and all(
        isinstance(name, str) and name in properties for name in names
    ):
        return frozenset(names)
    return None


def _members(node: Schema, value: Any) -> Iterator[tuple[str | int, Schema, Any]]:
    """Yield the members of ``value`` that ``node`` has a schema for, with that schema."""
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
    # Keywords next to a reference apply, too.
    return {**target, **{key: value for key, value in node.items() if key != "$ref"}}
