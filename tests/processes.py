"""Programs of this project as real processes, for end-to-end tests and the demo."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.leaks import leaks
from tests.programs import Process, programs

START_TIMEOUT_SECONDS = 30.0
STOP_TIMEOUT_SECONDS = 30.0


class ServerProcess:
    """A server in a process of its own, followed through its JSON log.

    Attributes:
        events: Every log event so far, in order.
    """

    def __init__(self, module: str, arguments: Sequence[str], environment: Mapping[str, str]):
        self._module = module
        self._arguments = ["--log-format", "json", *arguments]
        # Several services share a machine here, each with an HTTP side.
        self._environment = {"PIPESYNC_HTTP": "127.0.0.1:0", **os.environ, **environment}
        self._process: Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()
        self._ended = False
        self.events: list[dict[str, Any]] = []

    async def start(self) -> None:
        """Start the server, and return once it listens.

        Raises:
            RuntimeError: The server ended, or did not listen in time; the message has its log.
        """
        self._process = await programs.start(
            self._module,
            *self._arguments,
            environment=self._environment,
            stderr=asyncio.subprocess.PIPE,
        )
        self._reader = asyncio.create_task(self._read_events(self._process.stderr))
        # A service logs the address of its HTTP side first.
        await self.wait_for("listening", timeout=START_TIMEOUT_SECONDS, protocol=None)

    @property
    def pid(self) -> int:
        """Return the process id, once the process was started."""
        if self._process is None:
            raise RuntimeError("the process was not started")
        return self._process.pid

    @property
    def errors(self) -> list[dict[str, Any]]:
        """Return the events that the process logged as errors so far.

        A connector that is slow to stop is left out: on a busy machine everything is slow.
        """
        return [
            event
            for event in self.events
            if event.get("level") == "error" and event["event"] != "connector_does_not_stop"
        ]

    @property
    def address(self) -> str:
        """Return the address of the gRPC server."""
        return self._listening_address(None)

    @property
    def http_address(self) -> str:
        """Return the URL of a service's HTTP side: ``http://host:port``."""
        return self._listening_address("http")

    async def wait_for(
        self, event: str, *, timeout: float = 30.0, **fields: object
    ) -> dict[str, Any]:
        """Return the first log event, past or future, of that name and with these fields.

        Raises:
            RuntimeError: The process ended, or the time was up, before the event.
        """
        wanted = {"event": event, **fields}

        def found() -> list[dict[str, Any]]:
            return [
                one
                for one in self.events
                if all(one.get(name) == value for name, value in wanted.items())
            ]

        def seen() -> bool:
            return self._ended or bool(found())

        try:
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(seen)
        except TimeoutError:
            raise RuntimeError(f"no {event!r} in {timeout} s; logged: {self.events}") from None
        for one in found():
            return one
        raise RuntimeError(f"ended before {event!r}; logged: {self.events}")

    def kill(self) -> None:
        """Send SIGKILL: the process cannot clean up."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def terminate(self) -> None:
        """Send SIGTERM: the process drains."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()

    async def wait(self) -> int:
        """Wait for the end of the process, and return its exit code."""
        if self._process is None or self._reader is None:
            raise RuntimeError("the process was not started")
        exit_code = await self._process.wait()
        await self._reader
        return exit_code

    async def stop(self) -> int | None:
        """End the process, if it was started, and return its exit code."""
        if self._process is None:
            return None
        self.terminate()
        try:
            return await asyncio.wait_for(self.wait(), STOP_TIMEOUT_SECONDS)
        except TimeoutError:
            self.kill()
            return await self.wait()

    def _listening_address(self, protocol: str | None) -> str:
        addresses = [
            event["address"]
            for event in self.events
            if event["event"] == "listening" and event.get("protocol") == protocol
        ]
        return str(addresses[-1])

    async def _read_events(self, stream: asyncio.StreamReader | None) -> None:
        if stream is None:
            return
        async for line in stream:
            leaks.search("a program's log", line)
            async with self._changed:
                self.events.append(_event(line))
                self._changed.notify_all()
        async with self._changed:
            self._ended = True
            self._changed.notify_all()


@asynccontextmanager
async def running(
    module: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> AsyncIterator[ServerProcess]:
    """Run ``engine_server`` or ``service_server`` for the length of the block."""
    server = ServerProcess(module, arguments, environment or {})
    try:
        await server.start()
        yield server
    finally:
        await server.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """Exit code and output of a command."""

    exit_code: int
    stdout: str
    stderr: str

    def json_lines(self) -> list[Any]:
        """Return the values of its standard output, one JSON value a line."""
        return [json.loads(line) for line in self.stdout.splitlines()]


async def run_pipelines(
    service: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> CommandResult:
    """Run the ``pipelines`` command against a service to its end."""
    process = await programs.start(
        "pipesync_cli",
        *("--service", service, *arguments),
        environment={**os.environ, **(environment or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    leaks.search("a command's output", stdout + stderr)
    return CommandResult(
        exit_code=process.returncode or 0, stdout=stdout.decode(), stderr=stderr.decode()
    )


def _event(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        return {"event": line.decode(errors="replace").rstrip(), "level": "unstructured"}
    return event if isinstance(event, dict) else {"event": str(event), "level": "unstructured"}
