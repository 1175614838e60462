"""Servers that are killed and held up at random, and a Postgres that goes away now and then."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from random import Random

from tests.postgres import PostgresCluster
from tests.soak.mortal import MortalServer

_LEAST_PAUSE, _MOST_PAUSE = 1.5, 4.0
_SHORTEST_STOP, _LONGEST_STOP = 0.5, 8.0


class Chaos:
    """What goes wrong.

    Attributes:
        done: How often what was done.
    """

    def __init__(
        self, servers: Sequence[MortalServer], cluster: PostgresCluster, *, seed: int
    ) -> None:
        self.done = Counter[str]()
        self._servers = servers
        self._cluster = cluster
        self._random = Random(seed)  # noqa: S311 - chaos that fails must fail again
        self._under_way: set[MortalServer] = set()
        self._over = asyncio.Event()

    def end(self) -> None:
        """Begins nothing more; what stands still goes on, and what was killed comes back."""
        self._over.set()

    async def reign(self) -> None:
        """Does things to the servers until ``end`` is called and all are there again."""
        async with asyncio.TaskGroup() as running:
            while not self._over.is_set():
                left_alone = [one for one in self._servers if one not in self._under_way]
                if left_alone:
                    running.create_task(self._disturb(self._random.choice(left_alone)))
                await self._pause(self._random.uniform(_LEAST_PAUSE, _MOST_PAUSE))

    async def restart_postgres(self) -> None:
        """Shuts Postgres down and starts it again."""
        self.done["Postgres restarted"] += 1
        await asyncio.to_thread(self._cluster.restart)

    async def crash_postgres(self) -> None:
        """Has Postgres end in the middle of everything, and starts it again."""
        self.done["Postgres crashed"] += 1
        await asyncio.to_thread(self._cluster.crash)
        await asyncio.to_thread(self._cluster.restart)

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
