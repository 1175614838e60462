"""Runs of the command-line program as a process."""

import asyncio
import os
import pty
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.leaks import leaks
from tests.pipesync_cli.scripted_service import ScriptedService, serving
from tests.programs import programs


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of a run of the program."""

    code: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        """The lines of stdout."""
        return self.stdout.splitlines()


async def pipelines(
    *arguments: str, environment: Mapping[str, str] | None = None, answer: str | None = None
) -> Outcome:
    """Run ``pipelines`` with these arguments, in a terminal if there is an answer to type."""
    if answer is not None:
        terminal, stdin = pty.openpty()
        os.write(terminal, answer.encode())
        try:
            return await _pipelines(*arguments, environment=environment, stdin=stdin)
        finally:
            os.close(stdin)
            os.close(terminal)
    return await _pipelines(*arguments, environment=environment, stdin=asyncio.subprocess.DEVNULL)


async def _pipelines(*arguments: str, environment: Mapping[str, str] | None, stdin: int) -> Outcome:
    process = await programs.start(
        "pipesync_cli",
        *arguments,
        environment={**os.environ, **(environment or {})},
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    leaks.search("a command's output", stdout + stderr)
    assert process.returncode is not None
    return Outcome(code=process.returncode, stdout=stdout.decode(), stderr=stderr.decode())


async def pipelines_of(service: ScriptedService, *arguments: str, **options: Any) -> Outcome:
    """Run ``pipelines`` against ``service``."""
    async with serving(service) as address:
        return await pipelines(
            *arguments,
            environment={"PIPESYNC_SERVICE": address, **options.pop("environment", {})},
            **options,
        )
