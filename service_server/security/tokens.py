"""Authentication by the tokens and certificates in the settings and in the store."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Self

from pipesync_server.access import ANYONE, Principal
from pipesync_server.certificates import Certificate
from pipesync_server.peer import UNKNOWN_PEER, Peer
from pipesync_server.tokens import (
    TokenAuthenticator,
    Unauthenticated,
    hash_token,
    operator_by_certificate,
    shown_certificate,
    shown_token,
    unknown_certificate,
)
from service_server.background.heartbeats import Heartbeats, Loop
from service_server.background.loop import BackgroundLoop
from service_server.store import tokens
from service_server.store.database import Database
from service_server.store.tokens import StoredToken

# Seconds between two reads of the valid tokens: the streams of a revoked or expired token have to
# end within five seconds.
_INTERVAL = 2.0
# Precision of the time of a token's last use.
_USE_INTERVAL = timedelta(minutes=1)


class Tokens:
    """Authenticates a caller by its token, or by its certificate if it sends no token.

    The tokens in the store are read at the beginning and every two seconds, so no call waits for
    the store, even if many callers send unknown tokens. While the store is unavailable, the tokens
    of the last read stay valid until they expire.
    """

    def __init__(
        self,
        database: Database,
        token_hashes: Collection[str],
        heartbeats: Heartbeats,
        *,
        certificates: Collection[str] = (),
    ) -> None:
        """Initialize.

        Args:
            database: The database with the stored tokens.
            token_hashes: Hashes of the tokens in the settings, which allow everything.
            heartbeats: Registry for the heartbeat of the reads.
            certificates: Certificates in the settings, which allow everything.
        """
        self._database = database
        self._configured = tuple(token_hashes)
        self._configured_certificates = frozenset(certificates)
        self._check = TokenAuthenticator(token_hashes)
        self._by_hash: Mapping[str, StoredToken] = {}
        self._by_certificate: Mapping[str, StoredToken] = {}
        self._prefixes: Collection[str] = frozenset()
        self._has_any = False
        self._uses: dict[int, datetime] = {}
        self._on_change: list[Callable[[], None]] = []
        self._loop = BackgroundLoop(Loop.TOKENS, self._refresh, heartbeats)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        database: Database,
        token_hashes: Collection[str],
        heartbeats: Heartbeats,
        *,
        certificates: Collection[str] = (),
    ) -> AsyncIterator[Self]:
        """Read the tokens, and read them again at intervals during the body.

        Raises:
            StoreUnavailable: The database is unavailable.
        """
        opened = cls(database, token_hashes, heartbeats, certificates=certificates)
        await opened._read()
        async with opened._loop.running(first_in=_INTERVAL):
            yield opened

    @property
    def hashes(self) -> Collection[str]:
        """The hashes of all tokens that are valid now."""
        return (*self._configured, *self._by_hash)

    @property
    def are_asked_for(self) -> bool:
        """Whether callers need credentials: always once a token was created, even if revoked."""
        return bool(self._configured or self._configured_certificates) or self._has_any

    def prefixes(self) -> Collection[str]:
        """Return the set of the prefixes to which valid tokens and certificates are limited."""
        return self._prefixes

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` every two seconds, when the results of ``is_valid`` may change."""
        self._on_change.append(listener)

    def admit(self, authorization: str, peer: Peer = UNKNOWN_PEER) -> Principal:
        """Return the caller.

        Args:
            authorization: The caller's authorization metadata; empty if there is none.
            peer: The caller's connection.

        Raises:
            Unauthenticated: The caller sends no token or certificate, or one that is unknown,
                revoked or expired.
        """
        if not self.are_asked_for:
            return ANYONE
        if (certificate := shown_certificate(authorization, peer)) is not None:
            return self._admit_certificate(certificate)
        token_hash = hash_token(shown_token(authorization))
        stored = self._by_hash.get(token_hash)
        if stored is not None and not _has_expired(stored):
            self._uses[stored.id] = datetime.now(UTC)
            return Principal(
                name=stored.name, scope=stored.scope, prefix=stored.prefix, token_hash=token_hash
            )
        if not self._configured:
            raise Unauthenticated("the server does not know this token, or no longer")
        return self._check.admit(authorization)

    def _admit_certificate(self, certificate: Certificate) -> Principal:
        for name in certificate.names:
            stored = self._by_certificate.get(name)
            if stored is not None and not _has_expired(stored):
                self._uses[stored.id] = datetime.now(UTC)
                return Principal(
                    name=stored.name,
                    scope=stored.scope,
                    prefix=stored.prefix,
                    certificate=name,
                    certificate_expire_time=certificate.expire_time,
                )
            if name in self._configured_certificates:
                return operator_by_certificate(name, certificate)
        raise unknown_certificate(certificate)

    def is_valid(self, caller: Principal) -> bool:
        """Return whether a caller that was admitted before would be admitted now."""
        if caller is ANYONE:
            return not self.are_asked_for
        if caller.certificate:
            return self._is_certificate_valid(caller)
        if not caller.token_hash:
            # The token is of the settings, which are read once.
            return True
        stored = self._by_hash.get(caller.token_hash)
        return stored is not None and not _has_expired(stored)

    def _is_certificate_valid(self, caller: Principal) -> bool:
        expire_time = caller.certificate_expire_time
        if expire_time is not None and expire_time <= datetime.now(UTC):
            return False
        stored = self._by_certificate.get(caller.certificate)
        if stored is None or _has_expired(stored):
            # A caller admitted by the settings has the certificate's name, not one of the store.
            return caller.name in self._configured_certificates
        # The certificate may have been revoked and admitted again with another scope.
        now = (stored.name, stored.scope, stored.prefix)
        return now == (caller.name, caller.scope, caller.prefix)

    async def _refresh(self) -> float:
        try:
            await self._read()
            await self._store_uses()
        finally:
            # Tokens expire even while the store is unavailable.
            for listener in self._on_change:
                listener()
        return _INTERVAL

    async def _read(self) -> None:
        async with self._database.connection() as connection:
            valid = await tokens.list_valid(connection)
            self._has_any = self._has_any or bool(valid) or await tokens.has_any(connection)
        self._prefixes = frozenset(token.prefix for token in valid if token.prefix)
        self._by_hash = {token.hash: token for token in valid if token.hash is not None}
        self._by_certificate = {
            token.certificate: token for token in valid if token.certificate is not None
        }

    async def _store_uses(self) -> None:
        stored = (*self._by_hash.values(), *self._by_certificate.values())
        last_uses = {token.id: token.last_use_time for token in stored}
        due = {
            token_id: used
            for token_id, used in self._uses.items()
            if (last := last_uses.get(token_id)) is None or used - last >= _USE_INTERVAL
        }
        if not due:
            return
        async with self._database.connection() as connection:
            await tokens.record_uses(connection, due)
        for token_id, used in due.items():
            if self._uses[token_id] == used:
                del self._uses[token_id]


def _has_expired(token: StoredToken) -> bool:
    return token.expire_time is not None and token.expire_time <= datetime.now(UTC)
