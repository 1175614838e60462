"""Operator's commands that print short-lived passwords, one for each host and user."""

import asyncio
import os
import shlex
import signal
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Self
from urllib.parse import unquote

from pipesync_postgres.url import DEFAULT_PORT, Host, parse_url

# Seconds. Tokens of the large providers are valid for at least 15 minutes.
_KEPT_FOR = 60.0
_TIMEOUT = 10.0
# A token of RDS has about 1,000 bytes.
_MAX_BYTES = 64 * 1024


class PasswordCommandFailed(OSError):
    """The command printed no password. A later run may, so this counts as an unreachable server."""


class PasswordCommand:
    """Runs a command when a connection is made, and keeps its output for a minute.

    The command runs without a shell. Its output is never logged or shown.
    """

    def __init__(self, arguments: Sequence[str], purpose: str) -> None:
        """``purpose`` describes the owner of the password in errors."""
        self._arguments = tuple(arguments)
        self._purpose = purpose
        self._renewing: asyncio.Task[str] | None = None
        self._password = ""
        self._made_at = float("-inf")

    @classmethod
    def parse(cls, command: str, purpose: str) -> Self:
        """Split a command line as a shell would, without running one.

        Raises:
            ValueError: The command is empty, or a quotation mark is not closed.
        """
        try:
            arguments = shlex.split(command)
        except ValueError:
            raise ValueError("has a quotation mark that is not closed") from None
        if not arguments:
            raise ValueError("names no command")
        return cls(arguments, purpose)

    async def password(self, *, refused: str | None = None) -> str:
        """Return a password that was printed within the last minute.

        Concurrent connections share one run. It continues even if all of them stop waiting, because
        a command may take longer than they do, and serves later connections.

        Args:
            refused: Password that the server refused; if it is the kept one, the command runs
                again.

        Raises:
            PasswordCommandFailed: The command failed, took too long, or printed no password.
        """
        if self._renewing is None:
            is_kept = time.monotonic() - self._made_at < _KEPT_FOR
            if is_kept and self._password != refused:
                return self._password
            self._renewing = asyncio.create_task(self._renew())
            self._renewing.add_done_callback(self._end_renewing)
        return await asyncio.shield(self._renewing)

    async def _renew(self) -> str:
        began = time.monotonic()
        self._password = await self._run()
        self._made_at = began
        return self._password

    def _end_renewing(self, renewing: asyncio.Task[str]) -> None:
        self._renewing = None
        if not renewing.cancelled():
            # Retrieve the exception even if no connection waits for it any more.
            renewing.exception()

    async def _run(self) -> str:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                # A process group, so that child processes end with the command.
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            number = getattr(error, "errno", None)
            reason = os.strerror(number) if number else "its arguments cannot be passed on"
            raise self._failed(f"cannot be started: {reason}") from None
        try:
            async with asyncio.timeout(_TIMEOUT):
                output = await self._output(process)
                status = await process.wait()
        except BaseException as error:
            await _kill(process)
            if isinstance(error, TimeoutError):
                raise self._failed(f"took longer than {_TIMEOUT:.0f} s") from None
            raise
        if status != 0:
            raise self._failed(f"ended with status {status}: run it by hand to see why")
        return self._password_in(output)

    async def _output(self, process: asyncio.subprocess.Process) -> bytes:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        output = b""
        while chunk := await process.stdout.read(_MAX_BYTES):
            output += chunk
            if len(output) > _MAX_BYTES:
                raise self._failed(f"printed more than {_MAX_BYTES // 1024} KiB")
        return output

    def _password_in(self, output: bytes) -> str:
        # Everything but the line break is part of the password.
        password = output.decode(errors="replace").rstrip("\r\n")
        if not password:
            raise self._failed("printed nothing")
        if "\n" in password or "\0" in password:
            raise self._failed("printed more than one line")
        return password

    def _failed(self, sentence: str) -> PasswordCommandFailed:
        return PasswordCommandFailed(f"the password command for {self._purpose} {sentence}")


class PasswordCommands:
    """The password commands of a server process, by host, port and user."""

    def __init__(self, entries: Iterable[str] = ()) -> None:
        """Parse entries ``HOST[:PORT]/USER=COMMAND``; the default port is 5432.

        Raises:
            ValueError: An entry is malformed. The message gives its number, but no command.
        """
        self._commands: dict[tuple[str, int, str], PasswordCommand] = {}
        for number, entry in enumerate(entries, start=1):
            place, equals, command = entry.partition("=")
            host_text, slash, user = place.strip().rpartition("/")
            user = unquote(user)
            if not (equals and slash and host_text and user):
                raise ValueError(f"entry {number} must be HOST[:PORT]/USER=COMMAND")
            host = _host(host_text, number)
            key = _key(host, user)
            if key in self._commands:
                raise ValueError(f"entry {number} names a host and a user a second time")
            try:
                self._commands[key] = PasswordCommand.parse(
                    command, f"user {user} at {host.name}:{host.port}"
                )
            except ValueError as error:
                raise ValueError(f"entry {number} {error}") from None

    def find(self, host: Host, user: str) -> PasswordCommand | None:
        """Return the command for exactly this host, port and user; None if there is none."""
        return self._commands.get(_key(host, user))


def _key(host: Host, user: str) -> tuple[str, int, str]:
    name = host.name if host.is_socket else host.name.lower()
    return name, host.port, user


def _host(text: str, number: int) -> Host:
    if text.startswith("/"):
        directory, colon, port = text.rpartition(":")
        if colon and port.isdigit():
            return Host(name=unquote(directory), port=int(port))
        return Host(name=unquote(text), port=DEFAULT_PORT)
    try:
        [host] = parse_url(f"postgresql://{text}").hosts
    except ValueError:
        raise ValueError(f"entry {number} must begin with one host, and its port or none") from None
    return host


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill the command and its child processes."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
