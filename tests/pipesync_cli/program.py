"""The program as a user runs it: a process of its own."""

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.leaks import leaks
from tests.pipesync_cli.scripted_service import ScriptedService, serving


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run of the program ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        """The result, line by line."""
        return self.stdout.splitlines()


async def pipelines(*arguments: str, environment: Mapping[str, str] | None = None) -> Outcome:
    """Runs ``pipelines`` with these arguments."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pipesync_cli",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )
    stdout, stderr = await process.communicate()
    leaks.search("a command's output", stdout + stderr)
    assert process.returncode is not None
    return Outcome(code=process.returncode, stdout=stdout.decode(), stderr=stderr.decode())


async def pipelines_of(service: ScriptedService, *arguments: str, **options: Any) -> Outcome:
    """Runs ``pipelines`` against ``service``."""
    async with serving(service) as address:
        return await pipelines(
            *arguments,
            environment={"PIPESYNC_SERVICE": address, **options.pop("environment", {})},
        )
