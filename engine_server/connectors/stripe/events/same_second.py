"""Events of one object and one second, of which nothing tells which came first.

Webhooks come out of order (https://docs.stripe.com/webhooks, event ordering), and events tell their
time in whole seconds. So where a row is of the very second of an event, the object is looked up.
"""

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Literal, Self, TypeAlias

from engine_server.connectors.protocols import Inventory
from engine_server.connectors.stripe.events.scope import EventScope

# So many of the rows that were told last are known again.
_MOST_KNOWN = 20_000

# A row: its stream and its id.
Row: TypeAlias = tuple[str, str]


class SameSecond:
    """What is known of how new the records are that events of one read are about.

    An async context manager: nothing is asked any more once it is closed.
    """

    def __init__(self, scope: EventScope) -> None:
        """Begins with what the destination holds, if it can tell."""
        self._scope = scope
        # What is on its way to the destination is not in the inventory yet.
        self._told: OrderedDict[Row, int] = OrderedDict()
        # The end of the last turn of each row that has one.
        self._last_turns: dict[Row, asyncio.Future[None]] = {}
        # The ids that are asked for together, and their answer.
        self._asked: defaultdict[str, set[str]] = defaultdict(set)
        self._answers: dict[str, asyncio.Task[Mapping[str, int]]] = {}
        self._asking: set[asyncio.Task[Mapping[str, int]]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asking = list(self._asking)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    def turn(
        self, stream: str, object_id: str, second: int, *, items: Iterable[Row] = ()
    ) -> "Turn":
        """Take a number for the turn of an event among those of one object.

        Turns come in the order of these calls. What is looked up in one is thereby as new as what
        was looked up before it, and its records are to be written behind them.

        Args:
            stream: The stream that the object is a record of.
            object_id: Its id.
            second: When the event was made, in Unix seconds.
            items: The rows that the items of its lists make.
        """
        return Turn(self, [(stream, object_id), *items], second)

    def take_number(
        self, rows: Iterable[Row], done: asyncio.Future[None]
    ) -> list[asyncio.Future[None]]:
        """Put a turn behind those that its rows have, and return the ends of these."""
        before = [self._last_turns[row] for row in rows if row in self._last_turns]
        self._last_turns.update(dict.fromkeys(rows, done))
        return before

    def hand_on(self, rows: Iterable[Row], done: asyncio.Future[None]) -> None:
        """End a turn, whatever came of it."""
        if not done.done():
            done.set_result(None)
        for row in rows:
            if self._last_turns.get(row) is done:
                del self._last_turns[row]

    async def is_unsure(self, rows: Iterable[Row], second: int) -> bool:
        """Tell whether one of the rows is of that very second.

        Raises:
            ConnectorError: The destination cannot be asked.
        """
        rows = list(rows)
        if any(self._told.get(row) == second for row in rows):
            return True
        inventory = self._scope.inventory
        if inventory is None:
            return False
        rows = [row for row in rows if row[0] in self._scope.streams]
        for stream, object_id in rows:
            self._asked[stream].add(object_id)
        answers = {stream: self._answer(inventory, stream) for stream, _ in rows}
        # One that was cancelled is not to take the answer from the others.
        held = {stream: await asyncio.shield(answer) for stream, answer in answers.items()}
        return any(held[stream].get(object_id) == second for stream, object_id in rows)

    def tell(self, rows: Iterable[Row], second: int) -> None:
        """Take down that rows are as new as that second."""
        for row in rows:
            self._told[row] = max(second, self._told.get(row, second))
            self._told.move_to_end(row)
        while len(self._told) > _MOST_KNOWN:
            self._told.popitem(last=False)

    def _answer(self, inventory: Inventory, stream: str) -> asyncio.Task[Mapping[str, int]]:
        if stream not in self._answers:
            task = asyncio.create_task(self._ask(inventory, stream))
            self._answers[stream] = task
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        return self._answers[stream]

    async def _ask(self, inventory: Inventory, stream: str) -> Mapping[str, int]:
        """Asks for all that came by the turn after this one, in one go."""
        await asyncio.sleep(0)
        ids = self._asked.pop(stream)
        del self._answers[stream]
        return await inventory.stamped(stream, ids, account_id=self._scope.account_id)


class Turn:
    """The turn of one event, in which its records are made: an async context manager.

    One that is not entered must be released, or those behind it wait for ever.
    """

    def __init__(self, same_second: SameSecond, rows: list[Row], second: int) -> None:
        """Takes its place behind the turns that the rows have so far."""
        self._same_second = same_second
        self._rows = rows
        self._made: list[Row] = []
        self._second = second
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._before = same_second.take_number(rows, self._done)

    async def __aenter__(self) -> bool:
        """Wait for the turn, and answer whether the object may be newer than the event tells.

        Raises:
            ConnectorError: The destination cannot be asked.
        """
        try:
            if self._before:
                # Not awaited themselves: a future that is awaited is cancelled with its waiter.
                await asyncio.wait(self._before)
            return await self._same_second.is_unsure(self._rows, self._second)
        except BaseException:
            self.release()
            raise

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[False]:
        # Of an event that fails nothing is written.
        if exception_type is None:
            self._same_second.tell((*self._rows, *self._made), self._second)
        self.release()
        return False

    def made(self, rows: Iterable[Row]) -> None:
        """Take down further rows that the event is written to."""
        self._made.extend(rows)

    def release(self, _: object = None) -> None:
        """Let those behind it have their turns, once those before it had theirs; safe to repeat."""
        for before in self._before:
            if not before.done():
                before.add_done_callback(self.release)
                return
        self._same_second.hand_on(self._rows, self._done)
