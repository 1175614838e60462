"""Pending deliveries of one webhook endpoint, each retried until it is acknowledged.

Rules: https://docs.stripe.com/webhooks (delivery behaviours); only the delays are shorter.
"""

import asyncio
import heapq
import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

import aiohttp

from tests.stripe_simulator.events import Event
from tests.stripe_simulator.signatures import delivery_headers

_AT_ONCE = 8
_FIRST_DELAY = 0.02
_LONGEST_DELAY = 0.5
_TIMEOUT = aiohttp.ClientTimeout(total=30)
_MULTIPLE_CHOICES = 300


@dataclass(slots=True, kw_only=True)
class Receiver:
    """Delivery settings of an endpoint, updated together with the endpoint.

    Attributes:
        url: URL of the endpoint.
        secret: Signing secret of its deliveries.
        api_version: API version in which its events are rendered.
        enabled_events: Types of its events; ``*`` for all.
        connect: Whether it receives the events of connected accounts rather than those of its own.
        thin: Whether it receives the events of API v2, and no others.
        enabled: False once it is disabled or deleted.
    """

    url: str
    secret: str
    api_version: str
    enabled_events: frozenset[str]
    connect: bool
    thin: bool = False
    enabled: bool = True

    def wants(self, event: Event) -> bool:
        """Return whether to deliver the event; never to a URL where another machine may listen."""
        wanted = event.type in self.enabled_events or "*" in self.enabled_events
        wanted = wanted and event.thin == self.thin
        return self.enabled and wanted and _is_loopback(self.url)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempted delivery.

    Attributes:
        url: URL of the endpoint.
        event_id: Id of the event.
        status: Status of the answer; 0 when there was none.
    """

    url: str
    event_id: str
    status: int


class Outbox:
    """The deliveries to one endpoint."""

    def __init__(self, receiver: Receiver, report: Callable[[Attempt], None]) -> None:
        self._receiver = receiver
        self._report = report
        # Due time of each delivery, with the delay before its next retry.
        self._due: list[tuple[float, int, Event, float]] = []
        self._numbers = itertools.count()
        # Number of unacknowledged deliveries of each event.
        self._unacknowledged = Counter[str]()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._woken = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()

    def put(self, event: Event, delay: float) -> None:
        """Send an event after ``delay`` seconds."""
        self._unacknowledged[event.id] += 1
        self._settled.clear()
        self._schedule(event, delay, _FIRST_DELAY)

    def give_up(self, event_id: str) -> None:
        """Stop sending an event."""
        self._unacknowledged.pop(event_id, None)
        if not self._unacknowledged:
            self._settled.set()

    async def settled(self) -> None:
        """Wait until all events are acknowledged or given up, or the endpoint is disabled."""
        await self._settled.wait()

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Send due deliveries until cancelled."""
        async with asyncio.TaskGroup() as sending:
            while True:
                await self._slots.acquire()
                event, delay = await self._next()
                sending.create_task(self._send(session, event, delay))

    def _schedule(self, event: Event, after: float, delay: float) -> None:
        due = time.monotonic() + after
        heapq.heappush(self._due, (due, next(self._numbers), event, delay))
        self._woken.set()

    async def _next(self) -> tuple[Event, float]:
        while True:
            left = self._due[0][0] - time.monotonic() if self._due else None
            if left is not None and left <= 0:
                _, _, event, delay = heapq.heappop(self._due)
                return event, delay
            self._woken.clear()
            try:
                async with asyncio.timeout(left):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def _send(self, session: aiohttp.ClientSession, event: Event, delay: float) -> None:
        try:
            is_wanted = self._receiver.enabled and event.id in self._unacknowledged
            acknowledged = not is_wanted or await self._post(session, event)
        finally:
            self._slots.release()
        if event.id not in self._unacknowledged:
            return
        if not acknowledged:
            self._schedule(event, delay, min(2 * delay, _LONGEST_DELAY))
            return
        self._unacknowledged[event.id] -= 1
        if self._unacknowledged[event.id] == 0:
            self.give_up(event.id)

    async def _post(self, session: aiohttp.ClientSession, event: Event) -> bool:
        url = self._receiver.url
        body = event.rendered(self._receiver.api_version)
        headers = delivery_headers(body, self._receiver.secret)
        status = 0
        try:
            async with session.post(
                url, data=body, headers=headers, timeout=_TIMEOUT, allow_redirects=False
            ) as response:
                status = response.status
        except (aiohttp.ClientError, OSError):
            # TimeoutError is a subclass of OSError.
            pass
        self._report(Attempt(url=url, event_id=event.id, status=status))
        return 0 < status < _MULTIPLE_CHOICES


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
