"""Tests for the service as a process."""

import asyncio
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync_client import PipelineClient
from tests.leaks import leaks
from tests.processes import running
from tests.programs import programs
from tests.service_server.conftest import KEY, pipeline


@pytest.fixture
def data_dir() -> Iterator[Path]:
    # Not below tmp_path, which the user that Postgres runs as under root cannot enter.
    with tempfile.TemporaryDirectory(prefix="pipesync-service-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "data"


async def refused(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Return the exit code and stderr of a service that does not start."""
    process = await programs.start(
        *("service_server", "--listen", "127.0.0.1:0", *arguments),
        environment={**os.environ, **(environment or {})},
        stderr=subprocess.PIPE,
    )
    _, stderr = await asyncio.wait_for(process.communicate(), 30)
    leaks.search("a program's log", stderr)
    assert process.returncode is not None
    return process.returncode, stderr.decode()


async def test_a_killed_service_keeps_its_pipelines(data_dir: Path, engine_address: str) -> None:
    arguments = (
        *("service_server", "--listen", "127.0.0.1:0"),
        *("--engine", engine_address, "--data-dir", str(data_dir)),
    )
    async with running(*arguments) as service, PipelineClient(service.address) as client:
        await client.create_pipeline(pb.CreatePipelineRequest(pipeline=pipeline()))
        service.kill()
        assert await service.wait() < 0
    async with running(*arguments) as service, PipelineClient(service.address) as client:
        found = await client.get_pipeline(pb.GetPipelineRequest(pipeline_id="first"))
        assert found.pipeline.id == "first"
        check = client.check_pipeline(pb.CheckPipelineRequest(pipeline_id="first"))
        assert [_ async for _ in check]
        service.terminate()
        assert await service.wait() == 0
    assert not (data_dir / "postgres" / "postmaster.pid").exists()


async def test_an_address_that_others_can_reach_is_refused_without_tls(
    database_url: str, data_dir: Path
) -> None:
    exit_code, stderr = await refused(
        *("--listen", "0.0.0.0:0", "--database-url", database_url, "--data-dir", str(data_dir))
    )
    assert exit_code == 1
    assert "needs TLS" in stderr


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--lease-seconds", "x"),
        ("--database-url", "mysql://me:planted@host/db"),
        ("--log-level", "loud"),
    ],
)
async def test_an_invalid_setting_is_reported_in_one_sentence_with_its_name(
    flag: str, value: str
) -> None:
    exit_code, stderr = await refused(flag, value)
    assert exit_code == 2
    assert stderr.startswith("service_server: ") or flag in stderr
    assert flag in stderr
    assert "Traceback" not in stderr
    assert "planted" not in stderr


@pytest.mark.parametrize("password", ["pl/anted", "plan#ted", "pl#an/ted", "pl?an#ted", "p[lanted"])
@pytest.mark.parametrize("flag", ["--database-url", "--database-session-url"])
async def test_a_password_that_is_not_encoded_is_reported_without_it(
    flag: str, password: str, data_dir: Path
) -> None:
    bad, good = f"postgresql://me:{password}@127.0.0.1:1/db", "postgresql://me@127.0.0.1:1/db"
    other = "--database-url" if flag == "--database-session-url" else "--database-session-url"
    exit_code, stderr = await refused(flag, bad, other, good, "--data-dir", str(data_dir))
    assert exit_code in (1, 2)
    assert len(stderr.splitlines()) == 1
    assert "Traceback" not in stderr
    for piece in ("pl", "anted", "plan", "ted", "lanted"):
        assert f"{piece}@" not in stderr
        assert f":{piece}" not in stderr
    assert password not in stderr


async def test_a_bad_key_is_refused_without_being_shown() -> None:
    exit_code, stderr = await refused(environment={"PIPESYNC_ENCRYPTION_KEYS": f"{KEY},planted"})
    assert exit_code == 2
    assert "key 2 is not 32 bytes in base64" in stderr
    assert "planted" not in stderr


async def test_an_unreachable_database_is_reported(data_dir: Path) -> None:
    url = f"postgresql://me:planted@/db?host={data_dir}"
    exit_code, stderr = await refused("--database-url", url, "--data-dir", str(data_dir))
    assert exit_code == 1
    assert "database cannot be reached" in stderr
    assert "Traceback" not in stderr
    assert "planted" not in stderr


async def test_a_refused_login_is_reported_with_the_databases_message(
    database_url: str, data_dir: Path
) -> None:
    role = f"crowded_{secrets.token_hex(4)}"
    admin = await asyncpg.connect(database_url)
    await admin.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 0")
    try:
        url = database_url.replace("postgres@", f"{role}@")
        exit_code, stderr = await refused("--database-url", url, "--data-dir", str(data_dir))
    finally:
        await admin.execute(f"DROP ROLE {role}")
        await admin.close()
    assert exit_code == 1
    assert "SQLSTATE 53300" in stderr
    assert f'too many connections for role "{role}"' in stderr.replace("\\", "")
    assert "Traceback" not in stderr


async def test_help_lists_every_setting() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service_server", "--help"), stdout=subprocess.PIPE
    )
    stdout, _ = await process.communicate()
    for setting in (
        *("--listen", "--engine", "--database-url", "--data-dir", "--lease-seconds"),
        *("--http", "--webhook-attempts", "--webhook-days"),
        *("--log-level", "PIPESYNC_ENCRYPTION_KEYS", "PIPESYNC_ENGINE_TOKEN"),
    ):
        assert setting in stdout.decode()
