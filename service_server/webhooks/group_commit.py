"""Group commit of webhook events: concurrent events are stored in one transaction."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import structlog

from service_server.background.heartbeats import Heartbeats, Loop
from service_server.background.loop import BackgroundLoop
from service_server.errors import StoreUnavailable
from service_server.store import inbox
from service_server.store.database import Database
from service_server.store.inbox import InsertResult, NewEvent

# Limits of one transaction: the number of events, for small ones, and their bytes, for large ones.
_MOST_EVENTS = 500
_MOST_BYTES = 8 * 1024 * 1024

# Seconds between two heartbeats while nothing arrives.
_LONGEST_WAIT = 30.0

_log = structlog.get_logger(__name__)

_Waiting = tuple[NewEvent, "asyncio.Future[InsertResult]"]


class GroupCommit:
    """Stores the events that this process receives in the inbox.

    Events that arrive during one transaction form the next one. No event waits for a timer, and a
    thousand events a second take few commits.
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
        """Store the events that arrive during the body, and at its end those that remain."""
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

    async def put(self, event: NewEvent) -> InsertResult:
        """Store an event; when this returns, it is on disk.

        Raises:
            StoreUnavailable: The database is unavailable. The event may or may not be stored.
        """
        if self._closed:
            raise StoreUnavailable("the service is stopping")
        stored: asyncio.Future[InsertResult] = asyncio.get_running_loop().create_future()
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
        """Store a group, and pass the outcome or the error to its callers."""
        try:
            outcomes = await self._insert(group)
        except StoreUnavailable as error:
            _fail(group, error)
        except Exception as error:
            if len(group) == 1:
                _refuse(group, error)
            else:
                _log.warning("event_group_refused", events=len(group), error=type(error).__name__)
                await self._store_one_by_one(group)
        except BaseException:
            _fail(group, StoreUnavailable("the service is stopping"))
            raise
        else:
            _answer(group, outcomes)

    async def _store_one_by_one(self, group: list[_Waiting]) -> None:
        """Store each event of a refused group alone, because one event may be the cause."""
        for index, waiting in enumerate(group):
            self._loop.beat()
            try:
                _answer([waiting], await self._insert([waiting]))
            except StoreUnavailable as error:
                _fail(group[index:], error)
                return
            except Exception as error:
                _refuse([waiting], error)
            except BaseException:
                _fail(group[index:], StoreUnavailable("the service is stopping"))
                raise

    async def _insert(self, group: list[_Waiting]) -> list[InsertResult]:
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
            if event is not first[key] and outcome is InsertResult.NEW:
                outcome = InsertResult.DUPLICATE
            outcomes.append(outcome)
        return outcomes


def _answer(group: list[_Waiting], outcomes: list[InsertResult]) -> None:
    for (_, stored), outcome in zip(group, outcomes, strict=True):
        # The caller may have been cancelled.
        if not stored.done():
            stored.set_result(outcome)


def _fail(group: list[_Waiting], error: Exception) -> None:
    for _, stored in group:
        if not stored.done():
            stored.set_exception(error)


def _refuse(group: list[_Waiting], error: Exception) -> None:
    """Pass the database's refusal to the caller of the only event of a group."""
    [(event, _)] = group
    _log.error(
        "event_not_stored",
        pipeline_id=event.pipeline_id,
        event_id=event.event_id,
        error=type(error).__name__,
    )
    _fail(group, error)
