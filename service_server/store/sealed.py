"""Every place where something encrypted is stored, and how to put another envelope there."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from service_server.store.database import Connection
from service_server.store.queries import load_queries

_SQL = load_queries("sealed.sql")
# Any number will do that no other program on this database uses.
_ADVISORY_LOCK = 0x7365616C6564

PLACES: Sequence[str] = sorted(
    name.removesuffix("_list") for name in _SQL if name.endswith("_list")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """One encrypted value.

    Attributes:
        key: Its row, within its place.
        pipeline_id: Whose it is.
        envelope: What is stored (see ``secrets.Vault``).
    """

    key: str
    pipeline_id: str
    envelope: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """Another envelope for an encrypted value.

    Attributes:
        sealed: What was read.
        envelope: What to store in its place.
    """

    sealed: Sealed
    envelope: bytes = field(repr=False)


async def list_under_other_keys(
    connection: Connection, place: str, key_id: bytes, *, after: str, limit: int
) -> list[Sealed]:
    """At most ``limit`` values, in the order of their rows, that do not begin with ``key_id``.

    Args:
        connection: Where to read.
        place: One of ``PLACES``.
        key_id: What the envelopes of one key begin with.
        after: The row that the answer follows; empty to start at the first.
        limit: How many at most.
    """
    rows = await connection.fetch(_SQL[f"{place}_list"], after, key_id, limit)
    return [
        Sealed(key=row["key"], pipeline_id=row["pipeline_id"], envelope=row["envelope"])
        for row in rows
    ]


async def replace(connection: Connection, place: str, replacements: Sequence[Replacement]) -> int:
    """Replaces every value that is still the one that was read; in a transaction.

    Returns:
        How many were.
    """
    await connection.execute(_SQL["lock"], _ADVISORY_LOCK)
    rows = await connection.fetch(
        _SQL[f"{place}_replace"],
        [one.sealed.key for one in replacements],
        [one.sealed.envelope for one in replacements],
        [one.envelope for one in replacements],
    )
    return len(rows)
