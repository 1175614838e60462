"""Work in a process of its own that reports its time and memory.

This module is both sides of it: the process may run another Python, so only the standard library is
used.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Time and memory of the work, without the start of its process.

    Attributes:
        seconds: From its beginning to its end.
        cpu_seconds: Processor time of the whole process.
        peak_memory: Peak resident memory of the process, in bytes.
    """

    seconds: float
    cpu_seconds: float
    peak_memory: int


@contextmanager
def told() -> Iterator[None]:
    """Measure the block and write the result on the standard output, for ``done_by`` to read."""
    began, cpu_before = time.perf_counter(), time.process_time()
    yield
    taken = Taken(
        seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - cpu_before,
        peak_memory=peak_memory(),
    )
    sys.stdout.write(f"\n{json.dumps(asdict(taken))}\n")


async def done_by(
    module: str,
    work: Mapping[str, Any],
    *,
    python: Path | str = sys.executable,
    environment: Mapping[str, str] | None = None,
) -> Taken:
    """Run a module in another process and return its time and memory.

    Args:
        module: Reads its work as JSON from its standard input and does it in a block of ``told``.
        work: The work.
        python: Path of the interpreter.
        environment: Variables added to the environment of this process.

    Raises:
        RuntimeError: The process failed; the message has its errors.
    """
    process = await asyncio.create_subprocess_exec(
        *(python, "-m", module),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=_ROOT,
        env={**os.environ, **(environment or {})},
    )
    output, errors = await process.communicate(json.dumps(work).encode())
    if process.returncode != 0:
        raise RuntimeError(f"{module} failed: {errors.decode()}")
    return Taken(**json.loads(output.splitlines()[-1]))


def peak_memory(process: int | str = "self") -> int:
    """Return the peak resident memory of a process, in bytes, as Linux counts it."""
    status = Path(f"/proc/{process}/status").read_text()
    [peak] = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    # VmHWM:     63120 kB
    return int(peak.split()[1]) * 1024
