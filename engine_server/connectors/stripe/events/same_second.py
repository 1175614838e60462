"""Events about one object in the same second, whose order is unknown.

Webhooks arrive out of order (https://docs.stripe.com/webhooks, event ordering), and events have
times in whole seconds. If a row has the same second as an event, the object is looked up.
"""

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Literal, Self, TypeAlias

from engine_server.connectors.protocols import StoredRows
from engine_server.connectors.stripe.events.scope import EventScope

# The number of recently written rows to remember.
_MOST_KNOWN = 20_000

# A row: its stream and its id.
Row: TypeAlias = tuple[str, str]


class SameSecond:
    """Knows how new the rows are that the events of one read are about.

    An async context manager that cancels its queries at its end.
    """

    def __init__(self, scope: EventScope) -> None:
        """Start with the rows of the destination, if it can be queried."""
        self._scope = scope
        # Rows on their way to the destination are not among the stored ones yet.
        self._recorded: OrderedDict[Row, int] = OrderedDict()
        # The end of the last turn of each row that has one.
        self._last_turns: dict[Row, asyncio.Future[None]] = {}
        # The ids of one query, and the running queries.
        self._wanted_ids: defaultdict[str, set[str]] = defaultdict(set)
        self._queries: dict[str, asyncio.Task[Mapping[str, int]]] = {}
        self._running: set[asyncio.Task[Mapping[str, int]]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def turn(
        self, stream: str, object_id: str, second: int, *, items: Iterable[Row] = ()
    ) -> "Turn":
        """Take a number for the turn of an event among those of one object.

        Turns come in the order of these calls. An object looked up in one turn is thus at least as
        new as those looked up before, and its records must be written after theirs.

        Args:
            stream: The stream of the object's records.
            object_id: The id of the object.
            second: The Unix second of the event.
            items: The rows of the items in its lists.
        """
        return Turn(self, [(stream, object_id), *items], second)

    def take_number(
        self, rows: Iterable[Row], done: asyncio.Future[None]
    ) -> list[asyncio.Future[None]]:
        """Queue a turn behind the last ones of its rows, and return the ends of these."""
        before = [self._last_turns[row] for row in rows if row in self._last_turns]
        self._last_turns.update(dict.fromkeys(rows, done))
        return before

    def end_turn(self, rows: Iterable[Row], done: asyncio.Future[None]) -> None:
        """End a turn, whether it succeeded or not."""
        if not done.done():
            done.set_result(None)
        for row in rows:
            if self._last_turns.get(row) is done:
                del self._last_turns[row]

    async def is_unsure(self, rows: Iterable[Row], second: int) -> bool:
        """Return whether one of the rows has this very second.

        Raises:
            ConnectorError: The destination cannot be queried.
        """
        rows = list(rows)
        if any(self._recorded.get(row) == second for row in rows):
            return True
        stored_rows = self._scope.stored_rows
        if stored_rows is None:
            return False
        rows = [row for row in rows if row[0] in self._scope.streams]
        for stream, object_id in rows:
            self._wanted_ids[stream].add(object_id)
        queries = {stream: self._query(stored_rows, stream) for stream, _ in rows}
        # Shielded, because a cancelled caller must not cancel the query for the others.
        held = {stream: await asyncio.shield(query) for stream, query in queries.items()}
        return any(held[stream].get(object_id) == second for stream, object_id in rows)

    def record(self, rows: Iterable[Row], second: int) -> None:
        """Record that rows are at least as new as this second."""
        for row in rows:
            self._recorded[row] = max(second, self._recorded.get(row, second))
            self._recorded.move_to_end(row)
        while len(self._recorded) > _MOST_KNOWN:
            self._recorded.popitem(last=False)

    def _query(self, stored_rows: StoredRows, stream: str) -> asyncio.Task[Mapping[str, int]]:
        if stream not in self._queries:
            task = asyncio.create_task(self._run_query(stored_rows, stream))
            self._queries[stream] = task
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return self._queries[stream]

    async def _run_query(self, stored_rows: StoredRows, stream: str) -> Mapping[str, int]:
        """Query all ids added in this iteration of the event loop together."""
        await asyncio.sleep(0)
        ids = self._wanted_ids.pop(stream)
        del self._queries[stream]
        return await stored_rows.update_times(stream, ids, account_id=self._scope.account_id)


class Turn:
    """The turn of one event, in which its records are made: an async context manager.

    A turn that is not entered must be released, or later turns wait for ever.
    """

    def __init__(self, same_second: SameSecond, rows: list[Row], second: int) -> None:
        """Queue behind the current turns of the rows."""
        self._same_second = same_second
        self._rows = rows
        self._made: list[Row] = []
        self._second = second
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._before = same_second.take_number(rows, self._done)

    async def __aenter__(self) -> bool:
        """Wait for the turn, and return whether the object may be newer than the event.

        Raises:
            ConnectorError: The destination cannot be queried.
        """
        try:
            if self._before:
                # ``wait`` does not cancel the futures with the waiter, as awaiting them would.
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
        # An event that fails writes no rows.
        if exception_type is None:
            self._same_second.record((*self._rows, *self._made), self._second)
        self.release()
        return False

    def made(self, rows: Iterable[Row]) -> None:
        """Add rows that the event is written to."""
        self._made.extend(rows)

    def release(self, _: object = None) -> None:
        """End the turn once all earlier turns have ended; safe to repeat."""
        for before in self._before:
            if not before.done():
                before.add_done_callback(self.release)
                return
        self._same_second.end_turn(self._rows, self._done)
