"""Log of the requests to the simulator, which tests inspect and wait for."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

# Not part of Stripe's API: shows the requests when the simulator runs in another process.
REQUESTS_PATH = "/_simulator/requests"


@dataclass(slots=True, kw_only=True)
class SeenRequest:
    """One request.

    Attributes:
        method: HTTP method, e.g. ``GET``.
        path: Path of the URL, e.g. ``/v1/customers``.
        query: Query parameters.
        headers: Request headers, names in lower case.
        status: Status of the answer; 0 before there is one.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    status: int = 0


class RequestLog:
    """All requests in the order of their arrival, with any answer."""

    def __init__(self) -> None:
        self._seen: list[SeenRequest] = []
        self._changed = asyncio.Event()

    def add(self, request: SeenRequest) -> None:
        """Record a request that has just arrived."""
        self._seen.append(request)
        self._changed.set()
        self._changed = asyncio.Event()

    def clear(self) -> None:
        """Forget all requests so far."""
        self._seen.clear()

    def of(self, path: str) -> list[SeenRequest]:
        """Return the requests to a path, or to a pattern such as ``/v1/*``."""
        return [request for request in self._seen if fnmatchcase(request.path, path)]

    def statuses(self) -> dict[str, dict[int, int]]:
        """Return the number of answers by path and status; 0 counts unanswered requests."""
        counts: dict[str, dict[int, int]] = {}
        for request in self._seen:
            of_path = counts.setdefault(request.path, {})
            of_path[request.status] = of_path.get(request.status, 0) + 1
        return counts

    async def wait_for(self, path: str, count: int = 1) -> None:
        """Wait until there are this many requests to a path or pattern."""
        while len(self.of(path)) < count:
            await self._changed.wait()

    def __iter__(self) -> Iterator[SeenRequest]:
        return iter(self._seen)

    def __len__(self) -> int:
        return len(self._seen)

    def __getitem__(self, index: int) -> SeenRequest:
        return self._seen[index]
