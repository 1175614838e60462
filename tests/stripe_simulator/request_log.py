"""What the simulator was asked, for tests to look at and to wait for."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

# Not of Stripe's API: whoever runs the simulator in another process learns here what it was asked.
REQUESTS_PATH = "/_simulator/requests"


@dataclass(slots=True, kw_only=True)
class SeenRequest:
    """One request.

    Attributes:
        method: e.g. ``GET``.
        path: e.g. ``/v1/customers``.
        query: Its query parameters.
        headers: Its headers, names in lower case.
        status: The answer's; 0 while there is none.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    status: int = 0


class RequestLog:
    """All requests in the order in which they came in, whatever was answered."""

    def __init__(self) -> None:
        self._seen: list[SeenRequest] = []
        self._changed = asyncio.Event()

    def add(self, request: SeenRequest) -> None:
        """Takes down a request that has just come in."""
        self._seen.append(request)
        self._changed.set()
        self._changed = asyncio.Event()

    def clear(self) -> None:
        """Forgets those seen so far."""
        self._seen.clear()

    def of(self, path: str) -> list[SeenRequest]:
        """Those to a path, or to a pattern such as ``/v1/*``."""
        return [request for request in self._seen if fnmatchcase(request.path, path)]

    def statuses(self) -> dict[str, dict[int, int]]:
        """How often each path was answered with which status; 0 counts those not answered yet."""
        counts: dict[str, dict[int, int]] = {}
        for request in self._seen:
            of_path = counts.setdefault(request.path, {})
            of_path[request.status] = of_path.get(request.status, 0) + 1
        return counts

    async def wait_for(self, path: str, count: int = 1) -> None:
        """Waits until there are so many of them."""
        while len(self.of(path)) < count:
            await self._changed.wait()

    def __iter__(self) -> Iterator[SeenRequest]:
        return iter(self._seen)

    def __len__(self) -> int:
        return len(self._seen)

    def __getitem__(self, index: int) -> SeenRequest:
        return self._seen[index]
