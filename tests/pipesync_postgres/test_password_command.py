"""Password commands of the operator."""

import asyncio
import os
import shlex
import sys
from pathlib import Path

import pytest

from pipesync_postgres import password_command
from pipesync_postgres.password_command import (
    PasswordCommand,
    PasswordCommandFailed,
    PasswordCommands,
)
from pipesync_postgres.url import Host


def _python(code: str) -> str:
    return shlex.join([sys.executable, "-c", code])


def _counting(file: Path) -> str:
    """Return a command that prints a new password each time."""
    return _python(
        f"import pathlib; f = pathlib.Path({str(file)!r}); "
        "n = len(f.read_text()) if f.exists() else 0; f.write_text('x' * (n + 1)); "
        "print('secret', n + 1)"
    )


async def test_a_printed_password_is_kept_for_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = PasswordCommand.parse(_counting(tmp_path / "runs"), "me")
    printed = await asyncio.gather(*(command.password() for _ in range(5)))
    assert set(printed) == {"secret 1"}
    assert await command.password(refused="secret 1") == "secret 2"
    # A password that was refused earlier is not the kept one.
    assert await command.password(refused="secret 1") == "secret 2"
    monkeypatch.setattr(password_command, "_KEPT_FOR", 0.0)
    assert await command.password() == "secret 3"


async def test_it_runs_without_a_shell_and_with_the_servers_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "prod")
    code = "import os, sys; print(os.environ['AWS_PROFILE'], *sys.argv[1:], sep='|')"
    command = PasswordCommand.parse(f"{_python(code)} '$HOME' '*' ; 'a b'", "me")
    assert await command.password() == "prod|$HOME|*|;|a b"


FAILURES = {
    "a status": ("import sys; print('hunter2'); sys.exit('hunter2')", "ended with status 1"),
    "nothing": ("print()", "printed nothing"),
    "several lines": ("print('hunter2'); print('hunter2')", "printed more than one line"),
    "too much": ("print('hunter2' * 100_000)", "printed more than 64 KiB"),
    "time": ("import time; print('hunter2', flush=True); time.sleep(600)", "took longer than"),
}


@pytest.mark.parametrize(("code", "message"), FAILURES.values(), ids=FAILURES)
async def test_a_failed_command_is_reported_without_its_output(
    code: str, message: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if message == "took longer than":
        monkeypatch.setattr(password_command, "_TIMEOUT", 0.5)
    command = PasswordCommand.parse(_python(code), "user me at h:5432")
    with pytest.raises(PasswordCommandFailed) as caught:
        await command.password()
    assert f"the password command for user me at h:5432 {message}" in str(caught.value)
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r} {capfd.readouterr()}"


async def test_a_missing_command_is_reported() -> None:
    command = PasswordCommand.parse("/nowhere/token --secret hunter2", "me")
    with pytest.raises(PasswordCommandFailed, match="cannot be started: No such file") as caught:
        await command.password()
    assert "hunter2" not in str(caught.value)


async def test_child_processes_end_with_their_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = tmp_path / "pids"
    os.mkfifo(pids)
    child = "import time; time.sleep(600)"
    code = (
        "import pathlib, subprocess, sys, time; "
        f"c = subprocess.Popen([sys.executable, '-c', {child!r}]); "
        f"pathlib.Path({str(pids)!r}).write_text(str(c.pid)); time.sleep(600)"
    )
    command = PasswordCommand.parse(_python(code), "me")
    others = asyncio.all_tasks()
    waiting = asyncio.create_task(command.password())
    pid = int(await asyncio.to_thread(pids.read_text))
    # As when the server ends.
    ended = asyncio.all_tasks() - others
    for task in ended:
        task.cancel()
    await asyncio.gather(*ended, return_exceptions=True)
    assert waiting.cancelled()
    async with asyncio.timeout(10):
        while _is_running(pid):  # noqa: ASYNC110 - it is not our child
            await asyncio.sleep(0.01)


async def test_a_command_that_outlasts_its_caller_serves_the_next(tmp_path: Path) -> None:
    runs, printed = tmp_path / "runs", tmp_path / "printed"
    os.mkfifo(printed)
    code = (
        f"import pathlib; pathlib.Path({str(runs)!r}).open('a').write('x'); "
        f"print(pathlib.Path({str(printed)!r}).read_text())"
    )
    command = PasswordCommand.parse(_python(code), "me")
    for _ in range(3):
        impatient = asyncio.create_task(command.password())
        async with asyncio.timeout(10):
            while not runs.exists():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(0.01)
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
    patient = asyncio.create_task(command.password())
    await asyncio.to_thread(printed.write_text, "token")
    assert await patient == "token"
    assert runs.read_text() == "x"


async def test_a_failure_reaches_all_waiting_connections_and_the_command_runs_again(
    tmp_path: Path,
) -> None:
    runs = tmp_path / "runs"
    code = (
        f"import pathlib, sys; f = pathlib.Path({str(runs)!r}); first = not f.exists(); "
        "f.write_text('x'); sys.exit(1) if first else print('token')"
    )
    command = PasswordCommand.parse(_python(code), "me")
    results = await asyncio.gather(*(command.password() for _ in range(3)), return_exceptions=True)
    assert {type(one) for one in results} == {PasswordCommandFailed}
    assert await command.password() == "token"


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_a_command_is_found_for_exactly_its_host_port_and_user() -> None:
    commands = PasswordCommands(
        [
            "db.internal/writer=token one",
            "db.internal:6543/writer=token two",
            "[::1]:5433/sync%2Fme=token three",
            "/run/postgresql/writer=token four --flag=x/y=z",
        ]
    )

    def found(name: str, user: str, port: int = 5432) -> bool:
        return commands.find(Host(name=name, port=port), user) is not None

    assert found("db.internal", "writer")
    assert found("DB.internal", "writer")
    assert found("db.internal", "writer", 6543)
    assert found("::1", "sync/me", 5433)
    assert found("/run/postgresql", "writer")
    for name, user, port in [
        ("db.internal", "writer", 5433),
        ("db.internal", "Writer", 5432),
        ("db.internal", "", 5432),
        ("db.internal.evil.example", "writer", 5432),
        ("evil.example", "writer", 5432),
        ("db.internal.", "writer", 5432),
        ("/run/postgresql/", "writer", 5432),
        ("/RUN/postgresql", "writer", 5432),
    ]:
        assert not found(name, user, port)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("db.internal=token", "HOST[:PORT]/USER=COMMAND"),
        ("db.internal/me", "HOST[:PORT]/USER=COMMAND"),
        ("/me=token", "HOST[:PORT]/USER=COMMAND"),
        ("db.internal/=token", "HOST[:PORT]/USER=COMMAND"),
        ("db.internal/me=", "names no command"),
        ("db.internal/me=token 'x", "quotation mark"),
        ("one,two/me=token", "begin with one host"),
        ("db:x/me=token", "begin with one host"),
        ("fine/me=token\nfine/me=other", "a second time"),
    ],
)
def test_a_bad_entry_is_refused(entry: str, message: str) -> None:
    with pytest.raises(ValueError, match="entry") as caught:
        PasswordCommands(entry.split("\n"))
    assert message in str(caught.value)
    assert "token" not in str(caught.value)
