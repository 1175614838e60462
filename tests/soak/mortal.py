"""Server that is killed, paused and restarted, always at one address."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random

from tests.processes import ServerProcess

# The most seconds until a process starts again, however many attempts fail.
_REBIRTH_SECONDS = 60.0


@dataclass(slots=True)
class Life:
    """Lifetime of one process.

    Attributes:
        process: The process, with the events it logged.
        killed_at: When it was killed, Unix seconds; None when it was not.
    """

    process: ServerProcess
    killed_at: float | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """Time in which a process was paused, Unix seconds."""

    start: float
    end: float


class MortalServer:
    """Server's process, and those that replace it.

    Attributes:
        name: Its name in reports.
        lives: Its processes; the last one runs.
        stops: The times in which it was paused.
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
        """Return the gRPC address of each of its processes."""
        return self.lives[0].process.address

    @property
    def http_address(self) -> str:
        """Return the HTTP address of each of a service's processes."""
        return self.lives[0].process.http_address

    @property
    def deaths(self) -> int:
        """Return the number of its processes that were killed."""
        return sum(life.killed_at is not None for life in self.lives)

    async def start(self) -> None:
        """Start on free ports, which later processes keep."""
        process = self._process("--listen", "127.0.0.1:0")
        self.lives.append(Life(process))
        await process.start()

    async def die_now_and_then(self, random: Random, *, least: float, most: float) -> None:
        """Kill and restart the server at random intervals of ``least`` to ``most`` seconds.

        It runs until it is cancelled, and then leaves the server running.
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
        """Kill the process at once, and return when another one listens.

        A process that cannot start yet, such as a service without its database, is started again.
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
        """Stop the process by SIGSTOP, and continue it after this many seconds."""
        pid = self.lives[-1].process.pid
        start = time.time()
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.stops.append(Stop(start, time.time()))
            os.kill(pid, signal.SIGCONT)

    async def stop(self) -> None:
        """Stop the running process."""
        if self.lives:
            await self.lives[-1].process.stop()

    def _process(self, *arguments: str) -> ServerProcess:
        return ServerProcess(self._module, [*arguments, *self._arguments], self._environment)


@asynccontextmanager
async def mortal(server: MortalServer) -> AsyncIterator[MortalServer]:
    """Run the server for the length of the block."""
    try:
        await server.start()
        yield server
    finally:
        await server.stop()
