"""The process's rate limiters: one for each API key, shared by all its pipelines."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from engine_server.connectors.stripe.rate_limit import RateLimiter, Rates


@dataclass(slots=True)
class _Shared:
    limiter: RateLimiter
    users: int = 0


class Limiters:
    """Hands out limiters, and forgets those that nobody uses and that have nothing to remember."""

    def __init__(self) -> None:
        self._shared: dict[str, _Shared] = {}

    def __len__(self) -> int:
        """How many are known."""
        return len(self._shared)

    @contextmanager
    def use(self, *, base_url: str, api_key: str, rates: Rates) -> Iterator[RateLimiter]:
        """The one limiter for this key at this address, while the context lasts.

        Args:
            base_url: Where the API is.
            api_key: Only a hash of it is kept.
            rates: What to keep to; of several users, what the last one said is in force.
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
        # One that was slowed down, or just used, is still needed by whoever comes next.
        self._shared = {
            name: shared
            for name, shared in self._shared.items()
            if shared.users or not shared.limiter.is_rested
        }


LIMITERS = Limiters()
