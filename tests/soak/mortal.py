"""A server that is killed, held up and started again, always at one address."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random

from tests.processes import ServerProcess

# How long it may take until one starts again, however often it does not.
_REBIRTH_SECONDS = 60.0


@dataclass(slots=True)
class Life:
    """One process.

    Attributes:
        process: With what it logged.
        killed_at: When it was killed, Unix seconds; None when it was not.
    """

    process: ServerProcess
    killed_at: float | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """A time in which a process stood still, Unix seconds."""

    start: float
    end: float


class MortalServer:
    """A server's process, and the next one in its place.

    Attributes:
        name: For people.
        lives: Its processes, the last one running.
        stops: When it was held up.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        *,
        name: str = "",
    ) -> None:
        self.name = name or module
        self.lives: list[Life] = []
        self.stops: list[Stop] = []
        self._module = module
        self._arguments = tuple(arguments)
        self._environment = environment or {}

    @property
    def address(self) -> str:
        """Where each of its processes serves gRPC."""
        return self.lives[0].process.address

    @property
    def http_address(self) -> str:
        """Where each of a service's processes serves HTTP."""
        return self.lives[0].process.http_address

    @property
    def deaths(self) -> int:
        """How many of its processes were killed."""
        return sum(life.killed_at is not None for life in self.lives)

    async def start(self) -> None:
        """Takes free ports, and keeps them from then on."""
        process = self._process("--listen", "127.0.0.1:0")
        self.lives.append(Life(process))
        await process.start()

    async def die_now_and_then(self, random: Random, *, least: float, most: float) -> None:
        """Kills it after so many seconds at random, again and again, until it is cancelled.

        It lives when this ends, even if it was just dead then.
        """
        while True:
            await asyncio.sleep(random.uniform(least, most))
            rebirth = asyncio.create_task(self.be_reborn())
            try:
                await asyncio.shield(rebirth)
            except asyncio.CancelledError:
                await rebirth
                raise

    async def be_reborn(self) -> None:
        """Kills it on the spot; another one listens when this returns.

        What cannot start now, such as a service without its database, is started again.
        """
        life = self.lives[-1]
        life.killed_at = time.time()
        life.process.kill()
        await life.process.wait()
        arguments = ["--listen", self.address]
        if self._module == "service_server":
            arguments += ["--http", self.http_address.removeprefix("http://")]
        attempts: list[ServerProcess] = []
        try:
            async with asyncio.timeout(_REBIRTH_SECONDS):
                while True:
                    process = self._process(*arguments)
                    attempts.append(process)
                    try:
                        await process.start()
                        break
                    except RuntimeError:
                        await process.stop()
                    except asyncio.CancelledError:
                        process.kill()
                        raise
        except TimeoutError:
            logged = "\n".join(str(attempt.events) for attempt in attempts)
            raise AssertionError(
                f"{self.name} did not start in {_REBIRTH_SECONDS:g} seconds:\n{logged}"
            ) from None
        self.lives.append(Life(process))

    async def stand_still(self, seconds: float) -> None:
        """Stops it as it stands, and lets it go on after so long."""
        pid = self.lives[-1].process.pid
        start = time.time()
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.stops.append(Stop(start, time.time()))
            os.kill(pid, signal.SIGCONT)

    async def stop(self) -> None:
        """Ends the one that runs."""
        if self.lives:
            await self.lives[-1].process.stop()

    def _process(self, *arguments: str) -> ServerProcess:
        return ServerProcess(self._module, [*arguments, *self._arguments], self._environment)


@asynccontextmanager
async def mortal(server: MortalServer) -> AsyncIterator[MortalServer]:
    """Serves for the length of the block."""
    try:
        await server.start()
        yield server
    finally:
        await server.stop()
