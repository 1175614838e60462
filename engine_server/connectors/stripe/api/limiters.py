"""Rate limiters, one per API key, shared by all pipelines that use it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from engine_server.connectors.stripe.api.rate_limit import RateLimiter, Rates


@dataclass(slots=True)
class _Shared:
    limiter: RateLimiter
    users: int = 0


class Limiters:
    """Provides limiters, and drops those that are unused and have no state to keep."""

    def __init__(self) -> None:
        self._shared: dict[str, _Shared] = {}

    def __len__(self) -> int:
        """Return the number of limiters."""
        return len(self._shared)

    @contextmanager
    def use(self, *, base_url: str, api_key: str, rates: Rates) -> Iterator[RateLimiter]:
        """Yield the limiter of this key at this address.

        Args:
            base_url: The address of the API.
            api_key: The key, of which only a hash is kept.
            rates: The rates to keep; the last of several users decides.
        """
        self._forget()
        name = hashlib.sha256(f"{base_url}\0{api_key}".encode()).hexdigest()
        shared = self._shared.get(name)
        if shared is None:
            shared = self._shared[name] = _Shared(RateLimiter(rates))
        shared.limiter.set_rates(rates)
        shared.users += 1
        try:
            yield shared.limiter
        finally:
            shared.users -= 1

    def _forget(self) -> None:
        # A limiter that was slowed down or just used keeps its state for the next user.
        self._shared = {
            name: shared
            for name, shared in self._shared.items()
            if shared.users or not shared.limiter.is_replenished
        }
