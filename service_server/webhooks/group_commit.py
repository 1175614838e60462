"""Stores what comes in at the same time in one transaction, and answers each once it is there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from service_server.errors import StoreUnavailable
from service_server.store import inbox
from service_server.store.database import Database
from service_server.store.inbox import NewEvent, Stored

# What one transaction takes at most: of the smallest events, and of the largest.
_MOST_EVENTS = 500
_MOST_BYTES = 8 * 1024 * 1024

_Waiting = tuple[NewEvent, "asyncio.Future[Stored]"]


class GroupCommit:
    """The one way into the inbox of this process.

    While one transaction is under way the next one gathers: none waits for a timer, and a thousand
    events a second take few commits.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[_Waiting] = []
        self._woken = asyncio.Event()
        self._closed = False

    @classmethod
    @asynccontextmanager
    async def open(cls, database: Database) -> AsyncIterator[Self]:
        """Stores what comes in during the body, and at its end what is still waiting."""
        group_commit = cls(database)
        storing = asyncio.create_task(group_commit._store_what_comes())
        try:
            yield group_commit
        finally:
            group_commit._closed = True
            group_commit._woken.set()
            await storing

    async def put(self, event: NewEvent) -> Stored:
        """Takes an event in; when this returns, it is on disk.

        Raises:
            StoreUnavailable: Postgres is away: nobody knows whether it is stored.
        """
        if self._closed:
            raise StoreUnavailable("the service is stopping")
        stored: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self._waiting.append((event, stored))
        self._woken.set()
        return await stored

    async def _store_what_comes(self) -> None:
        while True:
            if not self._waiting:
                if self._closed:
                    return
                self._woken.clear()
                await self._woken.wait()
                continue
            await self._store(self._next_group())

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
        first: dict[tuple[str, str], NewEvent] = {}
        for event, _ in group:
            first.setdefault((event.pipeline_id, event.event_id), event)
        try:
            async with self._database.connection() as connection:
                outcomes = await inbox.insert(connection, list(first.values()))
        except Exception as error:
            for _, stored in group:
                if not stored.done():
                    stored.set_exception(error)
            return
        became = dict(zip(first, outcomes, strict=True))
        for event, stored in group:
            key = (event.pipeline_id, event.event_id)
            outcome = became[key]
            if event is not first[key] and outcome is Stored.NEW:
                outcome = Stored.DUPLICATE
            # Its caller may have gone away.
            if not stored.done():
                stored.set_result(outcome)
