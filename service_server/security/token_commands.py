"""The commands ``service-server tokens``: create, list and revoke tokens and certificates."""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from pipesync_server.access import Scope
from pipesync_server.tokens import hash_token
from service_server.errors import CannotStart
from service_server.store import tokens
from service_server.store.database import Database
from service_server.store.tokens import NewToken, StoredToken

_HEADER = ("NAME", "SCOPE", "PREFIX", "CERTIFICATE", "CREATED", "LAST USED", "EXPIRES", "STATE")


async def create_token(
    database: Database, *, name: str, scope: Scope, prefix: str, days: float | None
) -> str:
    """Create a token and store its hash.

    Args:
        database: The service's database.
        name: The token's name for operators.
        scope: The scope that it grants.
        prefix: Prefix of the ids of its pipelines; empty for all pipelines.
        days: Days until it expires; None for never.

    Returns:
        The token, which cannot be recovered from the stored hash.

    Raises:
        CannotStart: Another token has the name.
    """
    token = f"pst_{secrets.token_urlsafe(32)}"
    new = NewToken(
        name=name, hash=hash_token(token), scope=scope, prefix=prefix, expire_time=_after(days)
    )
    async with database.transaction() as connection:
        if not await tokens.insert(connection, new):
            raise CannotStart(f"there is a token {name!r} already: revoke it, or choose a name")
    return token


async def admit_certificate(
    database: Database,
    *,
    name: str,
    certificate: str,
    scope: Scope,
    prefix: str,
    days: float | None,
) -> None:
    """Admit the callers that present a certificate, as if it were a token.

    Args:
        database: The service's database.
        name: The certificate's name for operators.
        certificate: A subject of the certificate, in the form of ``certificates.parse_subject``.
        scope: The scope that it grants.
        prefix: Prefix of the ids of its pipelines; empty for all pipelines.
        days: Days until it is refused; None for never.

    Raises:
        CannotStart: Another token has the name, or the certificate is admitted already.
    """
    new = NewToken(
        name=name, certificate=certificate, scope=scope, prefix=prefix, expire_time=_after(days)
    )
    async with database.transaction() as connection:
        if not await tokens.insert(connection, new):
            raise CannotStart(
                f"there is a token {name!r} already, or one for {certificate!r}: revoke it first"
                " (service-server tokens list shows all)"
            )


async def list_tokens(database: Database) -> str:
    """Return a table of all tokens, the oldest first."""
    async with database.connection() as connection:
        stored = await tokens.list_all(connection)
    rows = [_HEADER, *(_row(token) for token in stored)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    return "\n".join(_line(row, widths) for row in rows)


async def revoke_token(database: Database, name: str) -> None:
    """Revoke a token; within two seconds every service refuses it and ends its calls.

    Raises:
        CannotStart: No token that is not revoked has the name.
    """
    async with database.transaction() as connection:
        if not await tokens.revoke(connection, name):
            raise CannotStart(
                f"there is no token {name!r} to revoke: service-server tokens list shows all"
            )


def _after(days: float | None) -> datetime | None:
    return None if days is None else datetime.now(UTC) + timedelta(days=days)


def _row(token: StoredToken) -> tuple[str, ...]:
    if token.revoke_time is not None:
        state = "revoked"
    elif token.expire_time is not None and token.expire_time <= datetime.now(UTC):
        state = "expired"
    else:
        state = "valid"
    return (
        token.name,
        token.scope,
        token.prefix or "-",
        token.certificate or "-",
        _shown(token.create_time),
        _shown(token.last_use_time),
        _shown(token.expire_time),
        state,
    )


def _shown(time: datetime | None) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%MZ") if time is not None else "never"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
