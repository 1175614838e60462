"""Tests that a forked program behaves as one in an interpreter of its own."""

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from tests.programs import Programs, programs

HELP = [
    ("engine_server", "--help"),
    ("service_server", "--help"),
    ("pipesync_cli", "--help"),
    ("pipesync_cli", "create", "--help"),
]
FAILURES = [
    ("engine_server", "--listen", "0.0.0.0:0"),
    ("engine_server", "--nonsense"),
    ("service_server", "tokens", "create", "one", "--scope", "none"),
    ("pipesync_cli", "--service", "127.0.0.1:1", "list"),
    ("pipesync_cli", "nonsense"),
]


async def ended(
    starter: Programs, *command: str, environment: Mapping[str, str] | None = None
) -> tuple[int | None, bytes, bytes]:
    process = await starter.start(
        *command,
        environment=os.environ if environment is None else environment,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
    )
    stdout, stderr = await process.communicate()
    return process.returncode, stdout, stderr


def plain(text: bytes) -> bytes:
    """Return a text without the times of log events."""
    return b"\n".join(
        line for line in text.splitlines() if b"timestamp" not in line and b"20" not in line[:4]
    )


@pytest.mark.parametrize("command", HELP, ids=" ".join)
async def test_help_is_the_same(command: tuple[str, ...]) -> None:
    assert await ended(programs, *command) == await ended(Programs(), *command)


@pytest.mark.parametrize("command", FAILURES, ids=" ".join)
async def test_failures_are_the_same(command: tuple[str, ...]) -> None:
    code, stdout, stderr = await ended(programs, *command)
    cold_code, cold_stdout, cold_stderr = await ended(Programs(), *command)
    assert (code, stdout, plain(stderr)) == (cold_code, cold_stdout, plain(cold_stderr))
    assert code != 0


async def test_it_runs_in_the_directory_of_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    process = await programs.start(
        *("engine_server", "--listen", "127.0.0.1:0"),
        environment=os.environ,
        stderr=PIPE,
    )
    assert process.stderr is not None
    assert b"listening" in await process.stderr.readline()
    assert psutil.Process(process.pid).cwd() == str(tmp_path)
    process.terminate()
    await process.communicate()
    assert process.returncode == 0
    process.kill()


async def test_its_environment_is_no_more_than_it_is_given() -> None:
    command = ("pipesync_cli", "list")
    given = {**os.environ, "PIPESYNC_SERVICE": "127.0.0.1:1", "PIPESYNC_TLS_CA": "/absent"}
    with_both = await ended(programs, *command, environment=given)
    assert with_both == await ended(Programs(), *command, environment=given)
    del given["PIPESYNC_TLS_CA"]
    with_one = await ended(programs, *command, environment=given)
    assert with_one == await ended(Programs(), *command, environment=given)
    assert with_one != with_both


async def test_a_killed_one_ends_with_the_signal() -> None:
    process = await programs.start(
        *("engine_server", "--listen", "127.0.0.1:0"), environment=os.environ, stderr=PIPE
    )
    process.kill()
    async with asyncio.timeout(30):
        assert await process.wait() == -signal.SIGKILL
        await process.communicate()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


async def test_variables_of_the_interpreter_take_effect(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('customized', flush=True)")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    _, stdout, _ = await ended(programs, "pipesync_cli", "--help", environment=environment)
    assert stdout.startswith(b"customized\n")
