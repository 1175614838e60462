"""Rate limit on failed logins, by address."""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta

import structlog
from google.rpc import code_pb2

from pipesync_rpc.errors import RpcError
from pipesync_rpc.reasons import Reason
from pipesync_server.access import Authenticator, Principal
from pipesync_server.peer import UNKNOWN_PEER, Peer
from pipesync_server.tokens import Unauthenticated

_log = structlog.get_logger(__name__)

# An address may fail this often at once, and once more after each interval, in seconds.
MAX_FAILURES = 50
_INTERVAL = 1.0
# Addresses with a count of their own; all further ones share one.
_MAX_ADDRESSES = 10_000
_OTHERS = ""
# Seconds between two log events on a flood, and the addresses that an event names.
_LOG_INTERVAL = 1.0
_MAX_NAMED = 5


class TooManyFailedLogins(RpcError):
    """The caller must wait, or present a token that the server knows."""

    default_code = code_pb2.RESOURCE_EXHAUSTED
    default_reason = Reason.TOO_MANY_FAILED_LOGINS

    def __init__(self, seconds: float) -> None:
        """``seconds`` is the time that the caller has to wait."""
        super().__init__(
            "too many calls from your address failed to authenticate; a valid token or certificate"
            " is still admitted",
            retry_delay=timedelta(seconds=seconds),
            # Waiting does not make the token valid, so the caller has to act, not its channel.
            stops_retries=True,
        )


class LimitedLogins:
    """Authenticator that limits how often an address may fail to authenticate.

    A caller that the server knows is admitted even from an address over its limit, because several
    callers may share the address.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        observe: Callable[[bool], None] = lambda is_limited: None,
        *,
        max_failures: int = MAX_FAILURES,
        max_addresses: int = _MAX_ADDRESSES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the authenticator to wrap.

        Args:
            authenticator: Identifies callers.
            observe: Called with each failed login: whether it was over the limit.
            max_failures: Failures that an address may have at once; one more is allowed every
                second.
            max_addresses: Addresses that are counted separately.
            clock: Returns the time in seconds.
        """
        self._authenticator = authenticator
        self._observe = observe
        self._max_failures = max_failures
        self._max_addresses = max_addresses
        self._clock = clock
        # Time at which an address has no failures left, ordered by its last failure.
        self._forgotten_at: dict[str, float] = {}
        self._flood: dict[str, int] = {}
        self._unnamed = 0

    def admit(self, authorization: str, peer: Peer = UNKNOWN_PEER) -> Principal:
        """Return the caller, as the wrapped authenticator does.

        Raises:
            Unauthenticated: The server does not know the caller.
            TooManyFailedLogins: Nor does it, and the address has failed too often.
        """
        try:
            return self._authenticator.admit(authorization, peer)
        except Unauthenticated:
            address = peer.address
            seconds = self._count_failure(address)
            self._observe(seconds > 0)
            if seconds > 0:
                self._count_flood(address)
                raise TooManyFailedLogins(seconds) from None
            raise

    def _count_failure(self, address: str) -> float:
        """Count a failure; return the seconds to wait before the next one, 0 within the limit."""
        now = self._clock()
        if address not in self._forgotten_at:
            self._drop_forgotten(now)
            if len(self._forgotten_at) >= self._max_addresses:
                address = _OTHERS
        forgotten_at = max(self._forgotten_at.get(address, now), now) + _INTERVAL
        excess = forgotten_at - now - self._max_failures * _INTERVAL
        if excess > 0:
            return excess
        self._forgotten_at.pop(address, None)
        self._forgotten_at[address] = forgotten_at
        return 0.0

    def _drop_forgotten(self, now: float) -> None:
        while self._forgotten_at:
            first = next(iter(self._forgotten_at))
            if self._forgotten_at[first] > now:
                return
            del self._forgotten_at[first]

    def _count_flood(self, address: str) -> None:
        if not self._flood:
            asyncio.get_running_loop().call_later(_LOG_INTERVAL, self._log_flood)
        if address in self._flood or len(self._flood) < _MAX_NAMED:
            self._flood[address] = self._flood.get(address, 0) + 1
        else:
            self._unnamed += 1

    def _log_flood(self) -> None:
        _log.warning(
            "failed_logins_limited",
            calls=sum(self._flood.values()) + self._unnamed,
            addresses=list(self._flood),
        )
        self._flood, self._unnamed = {}, 0
