"""Memory limit for the bodies of concurrent requests."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service_server.errors import TooManyDeliveries
from service_server.http.limits import HttpLimits
from service_server.metrics import Metrics


class Holding:
    """The memory of one body.

    Attributes:
        address: The address of the client.
        size: Bytes that have arrived.
        abort: Callback that ends the request; None once its body is complete.
    """

    def __init__(self, memory: "BodyMemory", address: str, abort: Callable[[], None]) -> None:
        self._memory = memory
        self.address = address
        self.size = 0
        self.abort: Callable[[], None] | None = abort

    def grow(self, size: int) -> None:
        """Add ``size`` bytes that have arrived.

        Raises:
            TooManyDeliveries: There is no memory left for them.
        """
        self._memory.take(self, size)

    def finish(self) -> None:
        """Record that the body is complete, so that its request is not aborted any more."""
        self.abort = None


class BodyMemory:
    """Limits the memory of bodies by the bytes that have arrived, not by Content-Length.

    If the memory of all bodies is used up, the address that holds most loses its oldest incomplete
    body.
    """

    def __init__(self, limits: HttpLimits, metrics: Metrics) -> None:
        self._metrics = metrics
        self._most = limits.most_body_memory
        self._most_per_address = limits.most_body_memory_per_address
        self._total = 0
        self._sizes: dict[str, int] = {}
        # In the order of their beginning.
        self._holdings: dict[Holding, None] = {}

    @contextmanager
    def holding(self, address: str, abort: Callable[[], None]) -> Iterator[Holding]:
        """Hold the memory of one request body during the ``with`` statement.

        Args:
            address: The address of the client.
            abort: Callback that ends the request while its body is incomplete.
        """
        holding = Holding(self, address, abort)
        self._holdings[holding] = None
        try:
            yield holding
        finally:
            self._release(holding)

    def take(self, holding: Holding, size: int) -> None:
        """Add bytes to a holding; see ``Holding.grow``."""
        address = holding.address
        if self._sizes.get(address, 0) + size > self._most_per_address:
            raise TooManyDeliveries(
                "too many bytes of webhooks of this address are in hand", limit="memory_of_address"
            )
        while self._total + size > self._most:
            victim = self._victim(holding)
            if victim is holding or victim.abort is None:
                raise _no_memory()
            victim.abort()
            self._release(victim)
        if holding not in self._holdings:
            raise _no_memory()
        holding.size += size
        self._total += size
        self._metrics.body_bytes.set(self._total)
        self._sizes[address] = self._sizes.get(address, 0) + size

    def _victim(self, growing: Holding) -> Holding:
        """Return the body to abort first."""
        unfinished = [
            one for one in self._holdings if one.abort is not None and (one.size or one is growing)
        ]
        # Of equal addresses, the oldest body. There is none if the growing one was itself aborted.
        return max(unfinished, key=lambda one: self._sizes.get(one.address, 0), default=growing)

    def _release(self, holding: Holding) -> None:
        if holding not in self._holdings:
            return
        del self._holdings[holding]
        self._total -= holding.size
        self._metrics.body_bytes.set(self._total)
        left = self._sizes.get(holding.address, 0) - holding.size
        if left > 0:
            self._sizes[holding.address] = left
        else:
            self._sizes.pop(holding.address, None)
        holding.size = 0


def _no_memory() -> TooManyDeliveries:
    return TooManyDeliveries("too many bytes of webhooks are in hand", limit="memory")
