"""Masking and unmasking of the secrets in one connector's configuration."""

from collections.abc import Collection, Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct

from pipesync.v1.catalog_pb2 import Connector, Spec
from pipesync_rpc.display_text import is_plain_name
from pipesync_rpc.errors import FieldViolation
from pipesync_server import config_schema as schema
from pipesync_server.secret_mask import MASK, masked_texts, mixed_masks
from pipesync_server.secret_mask import value_at as _at
from service_server.errors import InvalidRequest

# Changed fields that a violation names.
_MOST_NAMED = 3


def mask(connector: Connector, spec: Spec) -> Connector:
    """Return a copy of ``connector`` without its secrets."""
    config = MessageToDict(connector.config)
    # A secret may lie within another one, as a schema may offer several forms.
    for path in sorted(schema.secret_paths(_schema(spec), config), key=len, reverse=True):
        _put(config, path, MASK)
    return Connector(type=connector.type, config=ParseDict(config, Struct()))


def unmask(connector: Connector, spec: Spec, stored: Connector | None, field: str) -> Connector:
    """Return a copy of ``connector`` with each mask replaced by the stored secret.

    A mask keeps a secret only for the place that the secret was given for. It is invalid once the
    connector's type changes, or a property that the secret is bound to (see ``config_schema``), and
    as a part of a longer text.

    Args:
        connector: The connector in the request.
        spec: The connector's spec.
        stored: The stored connector with its secrets; None if there is none.
        field: The path of ``connector`` in the request, e.g. ``pipeline.config.source``.

    Raises:
        InvalidRequest: Masks are invalid; the error names every one with the reason.
    """
    config = MessageToDict(connector.config)
    json_schema = _schema(spec)
    bindings = schema.secret_bindings(json_schema, config)
    masks = {path: binding for path, binding in bindings.items() if _at(config, path) == MASK}
    violations = [*mixed_masks(bindings, config, f"{field}.config").values()]
    if not (masks or violations):
        return Connector(type=connector.type, config=connector.config)
    kept = MessageToDict(stored.config) if stored is not None else {}
    reasons: dict[schema.Path, str] = {}
    for path in masks:
        secret = _at(kept, path)
        if stored is not None and stored.type != connector.type:
            reasons[path] = f"{field}.type changed: give the secret anew"
        elif secret is None:
            reasons[path] = "none is stored: give the secret itself"
        else:
            _put(config, path, secret)
    unknown = {str(path[0]) for path in reasons}
    changed = schema.changed_properties(json_schema, kept, config) - unknown
    for path, binding in masks.items():
        moved = changed if binding is None else changed & binding
        if moved and path not in reasons:
            reasons[path] = f"{_named(field, moved)} changed: give the secret anew"
    violations += [
        FieldViolation(
            ".".join([field, "config", *map(str, path)]),
            f"reads {MASK}, which keeps a stored secret, but {reasons[path]}",
        )
        for path in sorted(reasons, key=str)
    ]
    if violations:
        raise InvalidRequest(violations)
    return Connector(type=connector.type, config=ParseDict(config, Struct()))


def masked_paths(connector: Connector) -> set[str]:
    """Return the paths of masked fields, e.g. ``api_key`` or ``tls.key``."""
    texts = masked_texts(MessageToDict(connector.config))
    return {".".join(map(str, path)) for path, text in texts if text == MASK}


def credentials(connector: Connector, spec: Spec) -> Mapping[schema.Path, Any]:
    """Return the secrets that authenticate the connector: all but the webhook secret."""
    config = MessageToDict(connector.config)
    return {
        path: _at(config, path)
        for path in schema.secret_paths(_schema(spec), config)
        if path != (spec.webhook_secret_field,)
    }


def secret_fields(connector: Connector, spec: Spec) -> set[str]:
    """Return the top-level properties that are secret or hold a secret."""
    config = MessageToDict(connector.config)
    return {str(path[0]) for path in schema.secret_paths(_schema(spec), config)}


def filled_in(before: Connector, after: Connector) -> Mapping[str, Any]:
    """Return the top-level properties that a connector changed; a removed one has None."""
    old, new = MessageToDict(before.config), MessageToDict(after.config)
    return {name: new.get(name) for name in sorted(schema.changed_properties({}, old, new))}


def fill_in(connector: Connector, before: Connector, fields: Mapping[str, Any]) -> list[str]:
    """Merge the properties that were filled into ``before`` into ``connector``.

    Args:
        connector: The configuration to change; it stays unchanged if there are conflicts.
        before: The configuration that the properties were filled into.
        fields: The properties, as ``filled_in`` returns them.

    Returns:
        The conflicts: properties that were given another value meanwhile.
    """
    now = MessageToDict(connector.config)
    changed = filled_in(before, connector)
    conflicts = [name for name in fields if name in changed and changed[name] != fields[name]]
    if not conflicts:
        merged = {**now, **fields}
        kept = {name: value for name, value in merged.items() if value is not None}
        connector.config.CopyFrom(ParseDict(kept, Struct()))
    return conflicts


def _named(field: str, properties: Collection[str]) -> str:
    # The name of a property may be any text of a request.
    names = [name for name in sorted(properties) if is_plain_name(name)]
    shown = [f"{field}.config.{name}" for name in names[:_MOST_NAMED]]
    others = len(properties) - len(shown)
    if others:
        shown.append(f"{others} more" if shown else f"{others} of the fields in {field}.config")
    return ", ".join(shown)


def _schema(spec: Spec) -> Mapping[str, Any]:
    return MessageToDict(spec.config_schema)


def _put(value: Any, path: schema.Path, leaf: Any) -> None:
    for part in path[:-1]:
        value = value[part]
    value[path[-1]] = leaf
