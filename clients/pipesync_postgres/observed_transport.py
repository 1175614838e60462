"""A transport that shows the data sent over it."""

import asyncio
from collections.abc import Callable
from typing import Any


class ObservedTransport:
    """Another transport, of which each write is shown to an observer first."""

    def __init__(self, transport: asyncio.Transport, observe: Callable[[memoryview], None]) -> None:
        self._transport = transport
        self._observe = observe

    def write(self, data: Any) -> None:
        """Show and send ``data``."""
        self._observe(memoryview(data))
        self._transport.write(data)

    def writelines(self, buffers: list[Any]) -> None:
        """Show and send each of ``buffers``."""
        for data in buffers:
            self._observe(memoryview(data))
        self._transport.writelines(buffers)

    def __getattr__(self, name: str) -> Any:
        """Return any other method of the transport."""
        return getattr(self._transport, name)
