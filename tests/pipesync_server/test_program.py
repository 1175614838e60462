"""Server program and the signals that end it."""

import asyncio
import signal
import sys

import pytest

PROGRAM = """
import sys
import structlog
from pipesync_server.program import Termination, run_program

structlog.configure(processors=[structlog.dev.ConsoleRenderer()],
    logger_factory=structlog.PrintLoggerFactory(open("/dev/null", "w")))

async def program(termination: Termination) -> None:
    print("up", flush=True)
    await termination.wait()
    print("draining", flush=True)
    sys.stdin.readline()
    print("done", flush=True)

run_program(program)
"""


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_program_once_and_cleanly(signal_number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal_number)
    assert await process.stdout.readline() == b"draining\n"
    process.send_signal(signal_number)
    rest, errors = await process.communicate(b"\n")
    assert rest == b"done\n"
    assert errors == b""
    assert process.returncode == 0
