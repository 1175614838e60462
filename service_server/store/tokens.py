"""Stored bearer tokens and clients' certificates, with the access that they grant."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from pipesync_server.access import Scope
from service_server.store.database import Connection
from service_server.store.queries import load_queries

_SQL = load_queries("tokens.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """A token, or a certificate in its place, to be stored.

    Attributes:
        name: Name for people.
        hash: Hash by ``tokens.hash_token``; None for a certificate.
        certificate: Name in the certificate, spelled as by ``certificates.parse_subject``; None for
            a token.
        scope: Calls that it allows.
        prefix: Prefix of the ids of the pipelines that it allows; empty for all pipelines.
        expire_time: Time from which it is refused; None for never.
    """

    name: str
    hash: str | None = field(default=None, repr=False)
    certificate: str | None = None
    scope: Scope
    prefix: str = ""
    expire_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredToken(NewToken):
    """A stored token.

    Attributes:
        id: Number of the token.
        create_time: Time of its creation.
        revoke_time: Time of its revocation; None if it is not revoked.
        last_use_time: Time of its latest use, to about a minute; None for never.
    """

    id: int
    create_time: datetime
    revoke_time: datetime | None
    last_use_time: datetime | None


async def insert(connection: Connection, token: NewToken) -> bool:
    """Store a new token.

    Returns:
        False if another token that is not revoked has its name or its certificate.
    """
    return bool(
        await connection.fetchval(
            _SQL["insert"],
            token.name,
            token.hash,
            token.certificate,
            token.scope,
            token.prefix,
            token.expire_time,
        )
    )


async def list_all(connection: Connection) -> list[StoredToken]:
    """Return all tokens, including revoked and expired ones, the oldest first."""
    return [_stored(row) for row in await connection.fetch(_SQL["list"])]


async def list_valid(connection: Connection) -> list[StoredToken]:
    """Return the tokens that are neither revoked nor expired."""
    return [_stored(row) for row in await connection.fetch(_SQL["list_valid"])]


async def has_any(connection: Connection) -> bool:
    """Return whether a token was ever created."""
    return bool(await connection.fetchval(_SQL["any"]))


async def revoke(connection: Connection, name: str) -> bool:
    """Revoke a token; return False if no unrevoked token has the name."""
    return bool(await connection.fetchval(_SQL["revoke"], name))


async def record_uses(connection: Connection, uses: Mapping[int, datetime]) -> None:
    """Store the times of the latest uses of tokens, by token number."""
    await connection.execute(_SQL["record_uses"], list(uses), list(uses.values()))


def _stored(row: asyncpg.Record) -> StoredToken:
    return StoredToken(**{**dict(row), "scope": Scope(row["scope"])})
