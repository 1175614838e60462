"""The example in the connectors' README is a working connector."""

import asyncio
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from engine_server.connectors import registry
from engine_server.connectors.conformance import SourceConformance
from engine_server.connectors.registry import ConnectorRegistry
from engine_server.servicer import EngineServicer
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig
from pipesync.v1.engine_service_pb2 import DESCRIPTOR, PipelineSyncBatchRequest, SyncOptions
from pipesync.v1.engine_service_pb2_grpc import add_EngineServiceServicer_to_server
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync.v1.state_pb2 import Eof, SyncState
from pipesync_client import EngineClient
from pipesync_server.server import RpcServer
from tests.messages import struct

README = Path(registry.__file__).with_name("README.md")
MODULE = "pipesync_jsonlines"


def blocks(language: str) -> list[str]:
    """Return the README's code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a directory with the example installed as in the README, and its tests."""
    example, tests = blocks("python")
    [project] = blocks("toml")
    [(group, points)] = tomllib.loads(project)["project"]["entry-points"].items()
    directory = tmp_path / "installed"
    package_info = directory / f"{MODULE}-1.0.dist-info"
    package_info.mkdir(parents=True)
    (directory / f"{MODULE}.py").write_text(example)
    (directory / f"test_{MODULE}.py").write_text(tests)
    (package_info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {MODULE}\nVersion: 1.0\n")
    lines = [f"{name} = {target}" for name, target in points.items()]
    (package_info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))
    monkeypatch.syspath_prepend(directory)
    yield directory
    sys.modules.pop(MODULE, None)


async def test_the_example_passes_the_conformance_tests(installed: Path, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        f"--basetemp={tmp_path / 'its own'}",
        cwd=installed,
        env={**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    rules = [name for name in dir(SourceConformance) if name.startswith("test_")]
    # The example neither counts fetches, looks up streams nor plans a teardown.
    assert f"{len(rules) - 3} passed, 3 skipped" in output.decode()


@pytest.mark.usefixtures("installed")
async def test_the_example_syncs_into_postgres_and_resumes(
    tmp_path: Path, database_url: str
) -> None:
    people = tmp_path / "people.jsonl"
    people.write_text("".join(f'{{"id": {number}}}\n' for number in range(250)))
    (tmp_path / "places.jsonl").write_text('{"id": "here", "name": "Zoë\'s"}\n')
    pipeline = PipelineConfig(
        source=Connector(type="jsonlines", config=struct({"directory": str(tmp_path)})),
        destination=Connector(
            type="postgres", config=struct({"url": database_url, "schema": "files"})
        ),
    )
    servicer = EngineServicer(ConnectorRegistry.installed())
    async with (
        RpcServer(
            listen="127.0.0.1:0",
            register=partial(add_EngineServiceServicer_to_server, servicer),
            service_names=[DESCRIPTOR.services_by_name["EngineService"].full_name],
            on_drain=servicer.request_shutdown,
            grace=1.0,
        ) as server,
        EngineClient(server.address) as client,
    ):

        async def sync(state: SyncState) -> Eof:
            request = PipelineSyncBatchRequest(
                pipeline=pipeline, options=SyncOptions(state=state, state_limit=2)
            )
            return (await client.pipeline_sync_batch(request)).eof

        first = await sync(SyncState())
        assert first.has_more
        assert first.ending_state.source.streams.keys() == {"people"}
        eof = await sync(first.ending_state)
        while eof.has_more:
            eof = await sync(eof.ending_state)
        assert eof.status == RUN_STATUS_SUCCEEDED, eof.failure_message
        with people.open("a") as file:
            file.write('{"id": 250}\n{"id": 251')
        eof = await sync(eof.ending_state)
        assert eof.status == RUN_STATUS_SUCCEEDED, eof.failure_message
        assert eof.request_progress.derived.total_record_count == 1
    assert await ids(database_url, "people") == set(range(251))
    assert await ids(database_url, "places") == {"here"}


async def ids(database_url: str, table: str) -> set[object]:
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(f"SELECT _raw_data::text FROM files.{table}")  # noqa: S608 - names of our own
    finally:
        await connection.close()
    assert len(rows) == len({row[0] for row in rows})
    return {json.loads(row[0])["id"] for row in rows}


async def test_the_engine_runs_without_the_dependencies_of_the_conformance_tests() -> None:
    program = (
        "import sys, engine_server.__main__\n"
        "from engine_server.connectors.registry import ConnectorRegistry\n"
        "assert ConnectorRegistry.installed().describe_all(0)\n"
        "assert not {'pytest', 'pytest_asyncio', 'jsonschema'} & sys.modules.keys()\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    assert await process.wait() == 0
