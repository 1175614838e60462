"""Cost of a piece of work in the engine's process, as Linux counts it."""

import time
from collections.abc import Awaitable
from dataclasses import dataclass

import psutil

from tests.benchmarks.own_process import peak_memory

_ENGINE_MODULE = "engine_server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of one piece of work.

    Attributes:
        seconds: From its beginning to its end.
        cpu_seconds: Processor time of the engine's process.
        memory_before: Peak resident memory of the process before the work, in bytes.
        peak_memory: The same after it; it includes memory that was freed meanwhile.
    """

    seconds: float
    cpu_seconds: float
    memory_before: int
    peak_memory: int


async def cost_of(work: Awaitable[None]) -> Cost:
    """Await the work and return its cost in the only engine among the children of this process.

    Raises:
        RuntimeError: There is no such engine, or there are several.
    """
    engine = _engine()
    memory_before, cpu_before = peak_memory(engine.pid), _cpu_seconds(engine)
    began = time.perf_counter()
    await work
    return Cost(
        seconds=time.perf_counter() - began,
        cpu_seconds=_cpu_seconds(engine) - cpu_before,
        memory_before=memory_before,
        peak_memory=peak_memory(engine.pid),
    )


def megabytes(count: int) -> str:
    """Return a number of bytes in megabytes, for people."""
    return f"{count / 1e6:.1f} MB"


def _engine() -> psutil.Process:
    children = psutil.Process().children()
    engines = [child for child in children if _ENGINE_MODULE in child.cmdline()]
    if len(engines) != 1:
        raise RuntimeError(f"{len(engines)} engines are running, not one")
    return engines[0]


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
