"""One connector's configuration on its way in and out: unmasked and masked."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct

from pipesync.v1.catalog_pb2 import Connector, Spec
from pipesync_rpc.errors import FieldViolation
from service_server import schema
from service_server.errors import InvalidRequest

# What a secret reads as, and what keeps the stored secret when it is written back.
MASK = "********"


def mask(connector: Connector, spec: Spec) -> Connector:
    """A copy of ``connector`` without its secrets."""
    config = MessageToDict(connector.config)
    for path in schema.secret_paths(_schema(spec), config):
        config = _replaced(config, path, MASK)
    return Connector(type=connector.type, config=ParseDict(config, Struct()))


def unmask(connector: Connector, spec: Spec, stored: Connector | None, field: str) -> Connector:
    """A copy of ``connector`` with the stored secrets where it has the mask.

    Args:
        connector: What the caller sent.
        spec: The connector's.
        stored: What is stored, with its secrets; None when nothing is.
        field: Where ``connector`` stands in the request, e.g. ``pipeline.config.source``.

    Raises:
        InvalidRequest: names every mask that stands for nothing.
    """
    config = MessageToDict(connector.config)
    kept = (
        MessageToDict(stored.config) if stored is not None and stored.type == connector.type else {}
    )
    violations = []
    for path in sorted(schema.secret_paths(_schema(spec), config), key=str):
        if _at(config, path) != MASK:
            continue
        secret = _at(kept, path)
        if secret is None:
            violations.append(
                FieldViolation(
                    ".".join([field, "config", *map(str, path)]),
                    f"reads {MASK}, which keeps a stored secret, but none is stored:"
                    " give the secret itself",
                )
            )
        else:
            config = _replaced(config, path, secret)
    if violations:
        raise InvalidRequest(violations)
    return Connector(type=connector.type, config=ParseDict(config, Struct()))


def credentials(connector: Connector, spec: Spec) -> Mapping[schema.Path, Any]:
    """The secrets that say who reads or writes: all but the one that webhooks are signed with."""
    config = MessageToDict(connector.config)
    return {
        path: _at(config, path)
        for path in schema.secret_paths(_schema(spec), config)
        if path != (spec.webhook_secret_field,)
    }


def _schema(spec: Spec) -> Mapping[str, Any]:
    return MessageToDict(spec.config_schema)


def _at(value: Any, path: schema.Path) -> Any:
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _replaced(value: Any, path: schema.Path, leaf: Any) -> Any:
    if not path:
        return leaf
    copy = value.copy()
    copy[path[0]] = _replaced(value[path[0]], path[1:], leaf)
    return copy
