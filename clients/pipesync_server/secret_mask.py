"""Mask that replaces the secrets of a connector's configuration in reads."""

from collections.abc import Collection, Iterator, Mapping
from itertools import takewhile
from typing import Any

from pipesync_rpc.display_text import is_plain_name
from pipesync_rpc.errors import FieldViolation
from pipesync_server import config_schema
from pipesync_server.config_schema import Path

# Text that replaces a secret in reads, and that keeps the stored secret in writes.
MASK = "********"
_MIXED = (
    f"holds {MASK} among other text, which would become part of the secret: send the mask alone to "
    "keep the stored value, or send the whole new value"
)
_ALONE = f"reads {MASK}, which stands for a stored secret, and none is stored here: send the value"


def holds_mask(value: Any) -> bool:
    """Return whether a value is, or has within it, a text that contains the mask."""
    return next(masked_texts(value), None) is not None


def masked_texts(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Yield the texts of a value that contain the mask, with their paths."""
    if isinstance(value, str):
        if MASK in value:
            yield path, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from masked_texts(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from masked_texts(inner, (*path, index))


def mixed_masks(
    secrets: Collection[Path], config: Any, field: str
) -> Mapping[Path, FieldViolation]:
    """Return a violation for each secret that contains the mask and more.

    Such a value would be stored as the secret, and the mask is no secret: a webhook signed with it
    would be accepted.

    Args:
        secrets: The paths of the secrets of ``config``.
        config: A connector's configuration.
        field: The path of ``config`` in the request, e.g. ``pipeline.source.config``.
    """
    alone = {path for path in secrets if value_at(config, path) == MASK}
    return {
        path: _violation(field, path, _MIXED)
        for path in sorted(secrets, key=str)
        if any(inner not in alone for inner, _ in masked_texts(value_at(config, path), path))
    }


def all_masks(schema: config_schema.Schema, config: Any, field: str) -> list[FieldViolation]:
    """Return a violation for each secret that is the mask or contains it.

    Args:
        schema: The JSON Schema of ``config``.
        config: A connector's configuration, in which no mask may be left.
        field: The path of ``config`` in the request.
    """
    secrets = config_schema.secret_paths(schema, config)
    mixed = mixed_masks(secrets, config, field)
    alone = (path for path in sorted(secrets, key=str) if value_at(config, path) == MASK)
    return [*mixed.values(), *(_violation(field, path, _ALONE) for path in alone)]


def value_at(value: Any, path: Path) -> Any:
    """Return the value at a path; None if there is none."""
    for part in path:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return None
    return value


def _violation(field: str, path: Path, description: str) -> FieldViolation:
    # A name from the caller may be a secret in the wrong place.
    shown = takewhile(lambda part: isinstance(part, int) or is_plain_name(part), path)
    return FieldViolation(".".join([field, *map(str, shown)]), description)
