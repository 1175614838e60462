"""Work in a process of its own that says what it took.

Both sides of it: the process may be of another Python, so nothing but the standard library is used.
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
    """What the work took, the start of its process not counted.

    Attributes:
        seconds: From its beginning to its end.
        cpu_seconds: Of processor time, in the whole process.
        peak_memory: The most that the process ever had resident, in bytes.
    """

    seconds: float
    cpu_seconds: float
    peak_memory: int


@contextmanager
def told() -> Iterator[None]:
    """Writes on the standard output what the block took, for ``done_by`` to read."""
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
    """Has a module do some work, and answers what that took.

    Args:
        module: Does what it reads from its standard input, as JSON, in a block of ``told``.
        work: What it reads.
        python: Who runs it.
        environment: What it has there besides that of this process.

    Raises:
        RuntimeError: It failed; with what it said.
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
    """The most that a process ever had resident, in bytes, as Linux counts it."""
    status = Path(f"/proc/{process}/status").read_text()
    [peak] = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    # VmHWM:     63120 kB
    return int(peak.split()[1]) * 1024
