"""The items that the destination stores of objects, asked for once for all events of a batch.

An inventory may lack rows that are on their way to the destination. So a barrier goes ahead of each
question: once it has passed, all that was yielded before is in the answer.
"""

import asyncio
import copy
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeAlias

from engine_server.barriers import Barriers
from engine_server.connectors.protocols import Inventory, QuickInventory
from pipesync.v1.message_pb2 import Message

# The ids of an owner's items.
_Items: TypeAlias = frozenset[str]
# A stream, the field of its records that names their owner, and the account whose they are.
_Stream: TypeAlias = tuple[str, str, str]
_Answers: TypeAlias = Mapping[tuple[_Stream, str], _Items]


@dataclass(slots=True, eq=False)
class _Round:
    """One question a stream, for all owners that were named before its barrier was yielded.

    Attributes:
        answers: The items of each.
        owners: Those who are asked for.
        is_ahead: Set once its barrier has passed.
    """

    answers: asyncio.Task[_Answers]
    owners: defaultdict[_Stream, set[str]] = field(default_factory=lambda: defaultdict(set))
    is_ahead: asyncio.Event = field(default_factory=asyncio.Event)


class StoredItems:
    """Items of lists inside objects that a destination stores, during one batch of events.

    An async context manager: no question goes on once it is closed. The generator that yields
    messages also yields the barriers of ``take_barriers``.
    """

    def __init__(
        self,
        inventory: Inventory | None,
        barriers: Barriers | None,
        *,
        on_barrier: Callable[[], None] = lambda: None,
    ) -> None:
        """Asks nothing yet.

        Args:
            inventory: What the destination holds; None where it cannot be asked.
            barriers: Tells when what was yielded is committed; None where nothing is on its way.
            on_barrier: Called when a barrier is to be yielded.
        """
        self._inventory = inventory
        self._barriers = barriers
        self._on_barrier = on_barrier
        self._known: dict[tuple[_Stream, str], _Round] = {}
        self._open: _Round | None = None
        self._rounds: list[_Round] = []
        self._waiting: list[_Round] = []
        self._news = asyncio.Event()
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
        """Ends all questions."""
        asking = [one.answers for one in self._rounds]
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    @property
    def can_be_asked(self) -> bool:
        """Whether ``of`` knows anything."""
        return self._inventory is not None

    async def of(
        self, stream: str, owner_field: str, owner: str, *, account_id: str = ""
    ) -> _Items:
        """The ids of the items that the destination stores of an owner, without deleted ones.

        Items that were yielded before this call are among them; so what is read of Stripe after it,
        and lacks one of them, shows that it is there no more.

        Args:
            stream: Whose records the items are.
            owner_field: The field of the items that names their owner.
            owner: Its id.
            account_id: As of ``Inventory``.

        Raises:
            ConnectorError: The destination cannot be asked.
        """
        if self._inventory is None:
            return frozenset()
        key = ((stream, owner_field, account_id), owner)
        if key not in self._known:
            if self._open is None:
                self._open = self._begun(self._inventory)
            self._open.owners[key[0]].add(owner)
            self._known[key] = self._open
        # One that was cancelled is not to take the answer from the others.
        answers = await asyncio.shield(self._known[key].answers)
        return answers.get(key, frozenset())

    async def shared(
        self, url: str, read: Callable[[], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """A list as it is now, read once for all events of the batch; a copy for each."""
        async with self._turns[url]:
            if url not in self._lists:
                self._lists[url] = await read()
        return copy.deepcopy(self._lists[url])

    def take_barriers(self) -> list[Message]:
        """The barriers to yield now, behind all that was yielded."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            # Of what is yielded from here on, a question would not be sure to know.
            self._open = None
        return [self._barriers.put(one.is_ahead.set) for one in waiting if self._barriers]

    async def barriers_until(self, work: asyncio.Future[Any]) -> AsyncGenerator[Message, None]:
        """Yields barriers as they are needed, until the work is done."""
        work.add_done_callback(lambda _: self._news.set())
        while not work.done():
            self._news.clear()
            for barrier in self.take_barriers():
                yield barrier
            await self._news.wait()

    def _begun(self, inventory: Inventory) -> _Round:
        async def ask() -> _Answers:
            # By then all that came together have named their owners.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if self._barriers is not None:
                self._waiting.append(begun)
                self._news.set()
                self._on_barrier()
                await begun.is_ahead.wait()
            else:
                self._open = None
            return await self._ask(inventory, begun.owners)

        begun = _Round(answers=asyncio.create_task(ask()))
        self._rounds.append(begun)
        return begun

    async def _ask(
        self, inventory: Inventory, owners: Mapping[_Stream, Collection[str]]
    ) -> _Answers:
        items: defaultdict[tuple[_Stream, str], set[str]] = defaultdict(set)
        belonging_to = inventory.belonging_to
        if isinstance(inventory, QuickInventory):
            belonging_to = inventory.belonging_to_at_once
        for stream, of_stream in owners.items():
            name, owner_field, account_id = stream
            # Without one, the inventory takes the account that the stream names.
            account = {"account_id": account_id} if account_id else {}
            for owner, item in await belonging_to(name, owner_field, of_stream, **account):
                items[stream, owner].add(item)
        return {key: frozenset(ids) for key, ids in items.items()}
