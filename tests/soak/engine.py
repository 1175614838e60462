"""An engine that is killed and started again, at one address."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from tests.processes import ServerProcess


class MortalEngine:
    """An engine process, and the next one in its place.

    Attributes:
        address: Where each of them serves.
        deaths: How many were killed.
    """

    def __init__(self, process: ServerProcess) -> None:
        self.address = process.address
        self.deaths = 0
        self._process = process

    async def die_now_and_then(self, random: Random, *, least: float, most: float) -> None:
        """Kills it after so many seconds at random, again and again, until it is cancelled."""
        while True:
            await asyncio.sleep(random.uniform(least, most))
            await self.be_reborn()

    async def be_reborn(self) -> None:
        """Kills it on the spot; another one listens when this returns."""
        self._process.kill()
        await self._process.wait()
        self.deaths += 1
        self._process = ServerProcess("engine_server", ["--listen", self.address], {})
        await self._process.start()

    async def stop(self) -> None:
        """Ends the one that runs."""
        await self._process.stop()


@asynccontextmanager
async def mortal_engine() -> AsyncIterator[MortalEngine]:
    """Serves for the length of the block."""
    process = ServerProcess("engine_server", ["--listen", "127.0.0.1:0"], {})
    await process.start()
    engine = MortalEngine(process)
    try:
        yield engine
    finally:
        await engine.stop()
