"""Random kills and pauses of servers, and every fault of a database in turn."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from random import Random

from tests.soak.failing_postgres import FailingPostgres
from tests.soak.mortal import MortalServer

_LEAST_PAUSE, _MOST_PAUSE = 1.5, 4.0
# Seconds between two faults of one database.
_LEAST_CALM, _MOST_CALM = 0.5, 1.5
_SHORTEST_STOP, _LONGEST_STOP = 0.5, 8.0


class Chaos:
    """Faults of servers and databases, at random.

    Attributes:
        done: The number of faults so far, by server or database and kind.
    """

    def __init__(
        self,
        servers: Sequence[MortalServer],
        databases: Sequence[FailingPostgres],
        *,
        seed: int,
    ) -> None:
        self.done = Counter[str]()
        self._servers = servers
        self._databases = databases
        self._random = Random(seed)  # noqa: S311 - chaos that fails must fail again
        self._under_way: set[MortalServer] = set()
        self._over = asyncio.Event()

    def end(self) -> None:
        """Begin no further fault; paused servers resume, and killed ones restart."""
        self._over.set()

    async def reign(self) -> None:
        """Disturb servers and databases until ``end`` is called and all of them run again."""
        async with asyncio.TaskGroup() as running:
            for database in self._databases:
                running.create_task(self._trouble(database))
            while not self._over.is_set():
                left_alone = [one for one in self._servers if one not in self._under_way]
                if left_alone:
                    running.create_task(self._disturb(self._random.choice(left_alone)))
                await self._pause(self._random.uniform(_LEAST_PAUSE, _MOST_PAUSE))

    async def _trouble(self, database: FailingPostgres) -> None:
        """Put a database through each of its faults, fail over, and continue with faults at random.

        Every fault occurs once, however short the time is.
        """
        names = list(database.faults)
        self._random.shuffle(names)
        for name in names[: len(names) // 2]:
            await self._fault(database, name)
        self.done[f"{database.name} failed over"] += 1
        await database.fail_over()
        for name in names[len(names) // 2 :]:
            await self._fault(database, name)
        while not self._over.is_set():
            await self._fault(database, self._random.choice(names))

    async def _fault(self, database: FailingPostgres, name: str) -> None:
        await asyncio.sleep(self._random.uniform(_LEAST_CALM, _MOST_CALM))
        self.done[f"{database.name} {name}"] += 1
        await database.faults[name](self._random)

    async def _disturb(self, server: MortalServer) -> None:
        self._under_way.add(server)
        try:
            if self._random.random() < 0.5:
                self.done[f"{server.name} killed"] += 1
                await server.be_reborn()
            else:
                self.done[f"{server.name} held up"] += 1
                await server.stand_still(self._random.uniform(_SHORTEST_STOP, _LONGEST_STOP))
        finally:
            self._under_way.remove(server)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            pass
