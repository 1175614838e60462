"""Replacement of encrypted values in all columns that hold them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from service_server.store.database import Connection
from service_server.store.queries import load_queries

_SQL = load_queries("sealed.sql")
# An arbitrary key that no other program on this database may use.
_ADVISORY_LOCK = 0x7365616C6564

PLACES: Sequence[str] = sorted(
    name.removesuffix("_list") for name in _SQL if name.endswith("_list")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """One encrypted value.

    Attributes:
        key: Key of its row.
        pipeline_id: Id of the pipeline.
        envelope: The encrypted value (see ``secrets.Vault``).
    """

    key: str
    pipeline_id: str
    envelope: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """Another envelope for an encrypted value.

    Attributes:
        sealed: The value as it was read.
        envelope: The envelope to store instead.
    """

    sealed: Sealed
    envelope: bytes = field(repr=False)


async def list_under_other_keys(
    connection: Connection, place: str, key_id: bytes, *, after: str, limit: int
) -> list[Sealed]:
    """Return values that are encrypted with other keys, in the order of their rows.

    Args:
        connection: The connection to read from.
        place: One of ``PLACES``.
        key_id: Prefix of the envelopes of the key to leave out.
        after: Key of the row that they follow; empty starts at the first.
        limit: Maximum number of values.
    """
    rows = await connection.fetch(_SQL[f"{place}_list"], after, key_id, limit)
    return [
        Sealed(key=row["key"], pipeline_id=row["pipeline_id"], envelope=row["envelope"])
        for row in rows
    ]


async def replace(connection: Connection, place: str, replacements: Sequence[Replacement]) -> int:
    """Replace every value that has not changed since it was read.

    Args:
        connection: The connection of a transaction.
        place: One of ``PLACES``.
        replacements: The new envelopes.

    Returns:
        The number of replaced values.
    """
    await connection.execute(_SQL["lock"], _ADVISORY_LOCK)
    rows = await connection.fetch(
        _SQL[f"{place}_replace"],
        [one.sealed.key for one in replacements],
        [one.sealed.envelope for one in replacements],
        [one.envelope for one in replacements],
    )
    return len(rows)
