"""Stored list items in the destination, queried once for all events of a batch.

Stored rows lack those that are on their way to the destination. A barrier is therefore yielded
before each query: once it has passed, the result includes all rows yielded before.
"""

import asyncio
import copy
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeAlias

from engine_server.barriers import Barriers
from engine_server.connectors.protocols import QuickStoredRows, StoredRows
from pipesync.v1.message_pb2 import Message

# The ids of an owner's items.
_Items: TypeAlias = frozenset[str]
# A stream, the field of its records that names their owner, and their account.
_Stream: TypeAlias = tuple[str, str, str]
_OwnedItems: TypeAlias = Mapping[tuple[_Stream, str], _Items]


@dataclass(slots=True, eq=False)
class _Query:
    """One query per stream, for all owners requested before its barrier was yielded.

    Attributes:
        answers: The items of each owner.
        owners: The owners of the query.
        is_ahead: Set once the barrier has passed.
    """

    answers: asyncio.Task[_OwnedItems]
    owners: defaultdict[_Stream, set[str]] = field(default_factory=lambda: defaultdict(set))
    is_ahead: asyncio.Event = field(default_factory=asyncio.Event)


class StoredItems:
    """List items that a destination stores, during one batch of events.

    An async context manager that cancels its queries at its end. The generator that yields messages
    also yields the barriers of ``take_barriers``.
    """

    def __init__(
        self,
        stored_rows: StoredRows | None,
        barriers: Barriers | None,
        *,
        on_barrier: Callable[[], None] = lambda: None,
    ) -> None:
        """Store the arguments; no query runs yet.

        Args:
            stored_rows: Rows that the destination holds; None if they cannot be queried.
            barriers: Signals when yielded messages are committed; None if no messages are in
                flight.
            on_barrier: Called when a barrier must be yielded.
        """
        self._stored_rows = stored_rows
        self._barriers = barriers
        self._on_barrier = on_barrier
        self._known: dict[tuple[_Stream, str], _Query] = {}
        self._open: _Query | None = None
        self._queries: list[_Query] = []
        self._waiting: list[_Query] = []
        self._changed = asyncio.Event()
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._lists: dict[str, dict[str, Any]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancel all queries."""
        running = [one.answers for one in self._queries]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    @property
    def can_be_queried(self) -> bool:
        """Whether the destination can be queried."""
        return self._stored_rows is not None

    async def of(
        self, stream: str, owner_field: str, owner: str, *, account_id: str = ""
    ) -> _Items:
        """Return the ids of an owner's items in the destination, without deleted ones.

        Items yielded before this call are included. A list that is read from Stripe after it, and
        lacks one of them, shows that the item is deleted.

        Args:
            stream: The stream of the items.
            owner_field: The field of the items that names their owner.
            owner: The id of the owner.
            account_id: As in ``StoredRows``.

        Raises:
            ConnectorError: The destination cannot be queried.
        """
        if self._stored_rows is None:
            return frozenset()
        key = ((stream, owner_field, account_id), owner)
        if key not in self._known:
            if self._open is None:
                self._open = self._begun(self._stored_rows)
            self._open.owners[key[0]].add(owner)
            self._known[key] = self._open
        # Shielded, because a cancelled caller must not cancel the query for the others.
        answers = await asyncio.shield(self._known[key].answers)
        return answers.get(key, frozenset())

    async def shared(
        self, url: str, read: Callable[[], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """Return a copy of a list, which is read once for all events of the batch."""
        async with self._turns[url]:
            if url not in self._lists:
                self._lists[url] = await read()
        return copy.deepcopy(self._lists[url])

    def take_barriers(self) -> list[Message]:
        """Return the barriers to yield now, after all messages so far."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            # A query would not cover the messages yielded from here on.
            self._open = None
        return [self._barriers.put(one.is_ahead.set) for one in waiting if self._barriers]

    async def barriers_until(self, work: asyncio.Future[Any]) -> AsyncGenerator[Message, None]:
        """Yield barriers as they are needed, until the work is done."""
        work.add_done_callback(lambda _: self._changed.set())
        while not work.done():
            self._changed.clear()
            for barrier in self.take_barriers():
                yield barrier
            await self._changed.wait()

    def _begun(self, stored_rows: StoredRows) -> _Query:
        async def run() -> _OwnedItems:
            # Lets all events that arrived together add their owners.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if self._barriers is not None:
                self._waiting.append(begun)
                self._changed.set()
                self._on_barrier()
                await begun.is_ahead.wait()
            else:
                self._open = None
            return await self._run_query(stored_rows, begun.owners)

        begun = _Query(answers=asyncio.create_task(run()))
        self._queries.append(begun)
        return begun

    async def _run_query(
        self, stored_rows: StoredRows, owners: Mapping[_Stream, Collection[str]]
    ) -> _OwnedItems:
        items: defaultdict[tuple[_Stream, str], set[str]] = defaultdict(set)
        belonging_to = stored_rows.belonging_to
        if isinstance(stored_rows, QuickStoredRows):
            belonging_to = stored_rows.belonging_to_at_once
        for stream, of_stream in owners.items():
            name, owner_field, account_id = stream
            # Without an account, the query uses the one that the stream names.
            account = {"account_id": account_id} if account_id else {}
            for owner, item in await belonging_to(name, owner_field, of_stream, **account):
                items[stream, owner].add(item)
        return {key: frozenset(ids) for key, ids in items.items()}
