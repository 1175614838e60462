"""Events of one object and one second, of which nothing tells which came first.

Webhooks come out of order (https://docs.stripe.com/webhooks, event ordering), and events tell their
time in whole seconds. So where a row is of the very second of an event, the object is looked up.
"""

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

from engine_server.connectors.protocols import Inventory
from engine_server.connectors.stripe.events.scope import EventScope

# So many of the objects that were told last are known again.
_MOST_KNOWN = 10_000


class SameSecond:
    """What is known of how new the records are that events of one read are about.

    An async context manager: nothing is asked any more once it is closed.
    """

    def __init__(self, scope: EventScope) -> None:
        """Begins with what the destination holds, if it can tell."""
        self._scope = scope
        # By stream and id. What is on its way to the destination is not in the inventory yet.
        self._told: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
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

    @asynccontextmanager
    async def turn(self, stream: str, object_id: str, second: int) -> AsyncGenerator[bool, None]:
        """The turn of an event among those of one object, in which its records are made.

        Turns come in the order in which they are asked for. What is looked up in one is thereby as
        new as what was looked up before it, and its records are to be written behind them.

        Args:
            stream: The stream that the object is a record of.
            object_id: Which it is.
            second: When the event was made, in Unix seconds.

        Yields:
            Whether the object may be newer already than the event tells.

        Raises:
            ConnectorError: The destination cannot be asked.
        """
        key = (stream, object_id)
        async with self._turns.setdefault(key, asyncio.Lock()):
            is_told = self._told.get(key) == second
            yield is_told or await self._held(stream, object_id) == second
            # Of an event that fails nothing is written.
            self._told[key] = max(second, self._told.get(key, second))
            self._told.move_to_end(key)
            if len(self._told) > _MOST_KNOWN:
                self._told.popitem(last=False)

    async def _held(self, stream: str, object_id: str) -> int | None:
        inventory = self._scope.inventory
        if inventory is None or stream not in self._scope.streams:
            return None
        self._asked[stream].add(object_id)
        if stream not in self._answers:
            task = asyncio.create_task(self._ask(inventory, stream))
            self._answers[stream] = task
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        # One that was cancelled is not to take the answer from the others.
        answer = await asyncio.shield(self._answers[stream])
        return answer.get(object_id)

    async def _ask(self, inventory: Inventory, stream: str) -> Mapping[str, int]:
        """Asks for all that came by the turn after this one, in one go."""
        await asyncio.sleep(0)
        ids = self._asked.pop(stream)
        del self._answers[stream]
        return await inventory.stamped(stream, ids, account_id=self._scope.account_id)
