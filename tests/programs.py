"""Starts of this project's programs: in new interpreters, or from processes with modules loaded."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

# Programs that many tests start.
_WARMED = frozenset({"engine_server", "service_server", "pipesync_cli"})
_ROOT = Path(__file__).parent.parent


class Process(Protocol):
    """A program that runs, as asyncio's own."""

    stdout: asyncio.StreamReader | None
    stderr: asyncio.StreamReader | None

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    def kill(self) -> None: ...

    def terminate(self) -> None: ...

    def send_signal(self, signal: int, /) -> None: ...

    async def wait(self) -> int: ...

    async def communicate(self) -> tuple[bytes, bytes]: ...


class Programs:
    """Starter of programs.

    Attributes:
        are_warm: Whether programs are forked from processes that have their modules loaded. Not by
            default: a benchmark or a demonstration starts them as users do.
    """

    def __init__(self) -> None:
        self.are_warm = False
        self._warm: dict[str, tuple[socket.socket, subprocess.Popen[bytes]]] = {}

    async def start(
        self,
        module: str,
        *arguments: str,
        environment: Mapping[str, str],
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> Process:
        """Start ``python -m module`` with ``arguments`` and the whole ``environment``."""
        # Variables of the interpreter itself have an effect only when it starts.
        is_like_here = all(
            environment.get(name) == os.environ.get(name)
            for name in {*environment, *os.environ}
            if name.startswith(("PYTHON", "LD_"))
        )
        if not (self.are_warm and is_like_here and module in _WARMED):
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, *arguments),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=environment,
            )
        return await _forked(self._warmed(module), arguments, environment, (stdin, stdout, stderr))

    def close(self) -> None:
        """End the processes that have modules loaded."""
        for requests, process in self._warm.values():
            requests.close()
            process.wait()
        self._warm.clear()

    def _warmed(self, module: str) -> socket.socket:
        if module not in self._warm:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                process = subprocess.Popen(  # noqa: S603 - our own
                    [sys.executable, "-m", "tests.warm_program", module, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    cwd=_ROOT,
                    pass_fds=[theirs.fileno()],
                )
            self._warm[module] = ours, process
        return self._warm[module][0]


class _Forked:
    """A process that a warm one forked."""

    def __init__(
        self,
        pid: int,
        stdout: asyncio.StreamReader | None,
        stderr: asyncio.StreamReader | None,
        reports: asyncio.StreamReader,
    ) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdout = stdout
        self.stderr = stderr
        self._end = asyncio.create_task(self._read_end(reports))

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def send_signal(self, signal: int, /) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal)

    async def wait(self) -> int:
        return await asyncio.shield(self._end)

    async def communicate(self) -> tuple[bytes, bytes]:
        stdout, stderr = await asyncio.gather(_whole(self.stdout), _whole(self.stderr))
        await self.wait()
        return stdout, stderr

    async def _read_end(self, reports: asyncio.StreamReader) -> int:
        self.returncode = int(await reports.readline())
        await reports.read()
        return self.returncode


async def _forked(
    requests: socket.socket,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    standard: Sequence[int | None],
) -> _Forked:
    request = {
        "arguments": arguments,
        "environment": dict(environment),
        "directory": str(Path.cwd()),
    }
    with ExitStack() as given:
        readers = list[asyncio.StreamReader | None]()
        descriptors = list[int]()
        for place, one in enumerate((*standard, PIPE)):
            readers.append(None)
            match one:
                case None:
                    descriptors.append(place)
                case asyncio.subprocess.DEVNULL:
                    descriptors.append(os.open(os.devnull, os.O_RDWR))
                    given.callback(os.close, descriptors[-1])
                case asyncio.subprocess.PIPE:
                    ours, theirs = os.pipe()
                    descriptors.append(theirs)
                    given.callback(os.close, theirs)
                    readers[-1] = await _reader(ours)
                case _:
                    descriptors.append(one)
        socket.send_fds(requests, [json.dumps(request).encode()], descriptors)
    _, stdout, stderr, reports = readers
    assert reports is not None
    return _Forked(int(await reports.readline()), stdout, stderr, reports)


async def _reader(descriptor: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
    )
    return reader


async def _whole(reader: asyncio.StreamReader | None) -> bytes:
    return await reader.read() if reader else b""


programs = Programs()
