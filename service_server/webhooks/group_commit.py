"""Stores what comes in at the same time in one transaction, and answers each once it is there."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from service_server.background import BackgroundLoop
from service_server.errors import StoreUnavailable
from service_server.heartbeats import Heartbeats, Loop
from service_server.store import inbox
from service_server.store.database import Database
from service_server.store.inbox import NewEvent, Stored

# What one transaction takes at most: of the smallest events, and of the largest.
_MOST_EVENTS = 500
_MOST_BYTES = 8 * 1024 * 1024

# Seconds between two signs of life while nothing arrives.
_LONGEST_WAIT = 30.0

_Waiting = tuple[NewEvent, "asyncio.Future[Stored]"]


class GroupCommit:
    """The one way into the inbox of this process.

    While one transaction is under way the next one gathers: none waits for a timer, and a thousand
    events a second take few commits.
    """

    def __init__(self, database: Database, heartbeats: Heartbeats | None = None) -> None:
        self._database = database
        self._waiting: list[_Waiting] = []
        self._loop = BackgroundLoop(
            Loop.GROUP_COMMIT, self._store_next_group, heartbeats or Heartbeats()
        )
        self._closed = False

    @classmethod
    @asynccontextmanager
    async def open(
        cls, database: Database, heartbeats: Heartbeats | None = None
    ) -> AsyncIterator[Self]:
        """Store the events that arrive during the body, and at its end those that still wait."""
        group_commit = cls(database, heartbeats)
        try:
            async with group_commit._loop.running(grace=math.inf):
                try:
                    yield group_commit
                finally:
                    group_commit._closed = True
        finally:
            while group_commit._waiting:
                await group_commit._store(group_commit._next_group())

    async def put(self, event: NewEvent) -> Stored:
        """Takes an event in; when this returns, it is on disk.

        Raises:
            StoreUnavailable: Postgres is away: nobody knows whether it is stored.
        """
        if self._closed:
            raise StoreUnavailable("the service is stopping")
        stored: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self._waiting.append((event, stored))
        self._loop.wake()
        return await stored

    async def _store_next_group(self) -> float:
        if not self._waiting:
            return _LONGEST_WAIT
        await self._store(self._next_group())
        return 0.0

    def _next_group(self) -> list[_Waiting]:
        size = 0
        for count, (event, _) in enumerate(self._waiting[:_MOST_EVENTS]):
            size += len(event.body)
            if count and size > _MOST_BYTES:
                break
        else:
            count = min(len(self._waiting), _MOST_EVENTS)
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        return group

    async def _store(self, group: list[_Waiting]) -> None:
        """Store a group, and answer its callers whatever comes of it."""
        try:
            outcomes = await self._insert(group)
        except Exception as error:
            _answer(group, error)
        except BaseException:
            _answer(group, StoreUnavailable("the service is stopping"))
            raise
        else:
            for (_, stored), outcome in zip(group, outcomes, strict=True):
                # Its caller may be gone.
                if not stored.done():
                    stored.set_result(outcome)

    async def _insert(self, group: list[_Waiting]) -> list[Stored]:
        first: dict[tuple[str, str], NewEvent] = {}
        for event, _ in group:
            first.setdefault((event.pipeline_id, event.event_id), event)
        async with self._database.connection() as connection:
            inserted = await inbox.insert(connection, list(first.values()))
        became = dict(zip(first, inserted, strict=True))
        outcomes = []
        for event, _ in group:
            key = (event.pipeline_id, event.event_id)
            outcome = became[key]
            if event is not first[key] and outcome is Stored.NEW:
                outcome = Stored.DUPLICATE
            outcomes.append(outcome)
        return outcomes


def _answer(group: list[_Waiting], error: Exception) -> None:
    for _, stored in group:
        if not stored.done():
            stored.set_exception(error)
