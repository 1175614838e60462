"""Tests that the leak guard finds a secret in every place that it checks."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import structlog
from google.rpc import code_pb2
from structlog.testing import capture_logs

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.pipeline_service_pb2 import Pipeline
from pipesync.v1.state_pb2 import SyncState
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from service_server.store import pipelines, states
from service_server.store.database import Database
from tests.leaks import leaks
from tests.messages import control, log
from tests.processes import run_pipelines, running
from tests.service_server.conftest import SECRET
from tests.service_server.scripted_engine import ScriptedEngine

LEAKING_TEST = f"""
import structlog
def test_that_leaks():
    structlog.get_logger().info("here", key={SECRET!r})
def test_that_does_not():
    structlog.get_logger().info("here", key="********")
"""


def test_a_test_that_leaks_fails_by_itself(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(LEAKING_TEST)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.leak_guard", "-q", "-rA", "--rootdir=.", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ERROR test_it.py::test_that_leaks - Failed: secrets leaked" in result.stdout
    assert "2 passed, 1 error" in result.stdout


def test_in_an_event_of_ours() -> None:
    with leaks.expected() as found:
        structlog.get_logger().info("connected", config={"api_key": SECRET})
        with capture_logs():
            structlog.get_logger().info("captured", key=SECRET)
        structlog.get_logger().info("connected", config={"api_key": "********"})
    assert len(found) == 2
    assert SECRET in found[0]


def test_in_a_log_record_of_a_library() -> None:
    with leaks.expected() as found:
        logging.getLogger("library").warning("cannot connect to %s", "me:planted@host")
    assert len(found) == 1


def test_in_a_traceback_that_the_program_does_not_mend() -> None:
    with leaks.expected() as found:
        for words in ("planted in words", f"a key: {SECRET}"):
            structlog.get_logger().error("broken", exc_info=ValueError(words))
            logging.getLogger("library").error("broken", exc_info=ValueError(f"{SECRET}"))
    assert len(found) == 1
    assert "planted in words" in found[0]


async def test_in_what_a_program_logs() -> None:
    with leaks.expected() as found:
        async with running("tests.leaking_program") as program:
            await program.wait()
    assert len(found) == 1
    assert "planted_password" in found[0]


async def test_in_what_a_command_prints() -> None:
    with leaks.expected() as found:
        await run_pipelines("127.0.0.1:1", "planted_command")
    assert len(found) == 1


async def test_in_an_answer(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    engine.setup_messages = [log(f"made it with {SECRET}")]
    with leaks.expected() as found:
        assert [
            _ async for _ in client.setup_pipeline(pb.SetupPipelineRequest(pipeline_id=created.id))
        ]
    assert sorted(one.split(" shows")[0] for one in found) == [
        "an answer of /pipesync.v1.EngineService/PipelineSetup",
        "an answer of /pipesync.v1.PipelineService/SetupPipeline",
    ]


async def test_not_in_a_configuration_that_the_engine_hands_to_the_service(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    engine.setup_messages = [control({"api_key": SECRET, "webhook_secret": "whsec_1"})]
    with leaks.expected() as found:
        assert [
            _ async for _ in client.setup_pipeline(pb.SetupPipelineRequest(pipeline_id=created.id))
        ]
    assert found == []


async def test_in_an_error(client: PipelineClient, engine: ScriptedEngine) -> None:
    engine.error = RpcError(
        "it broke", code=code_pb2.FAILED_PRECONDITION, reason="BROKEN", metadata={"key": SECRET}
    )
    with leaks.expected() as found, pytest.raises(RpcError):
        await client.discover_source(pb.DiscoverSourceRequest()).__anext__()
    assert found == []
    request = pb.DiscoverSourceRequest()
    request.source.type = "scripted"
    with leaks.expected() as found, pytest.raises(RpcError):
        await client.discover_source(request).__anext__()
    assert any("an error's grpc-status-details-bin" in one for one in found)


async def test_in_a_table(database: Database, database_url: str) -> None:
    async with database.connection() as connection:
        shown = Pipeline(id="first", status_message="nothing")
        stored = pipelines.StoredPipeline(pipeline=shown, sealed_config=f"\x00{SECRET}".encode())
        await pipelines.insert(connection, stored)
        await states.put(connection, "first", SyncState(destination=f"\x01{SECRET}"))
        await connection.execute("UPDATE pipesync.pipelines SET status_message = $1", SECRET)
        await connection.execute(
            "CREATE TABLE pipesync.later AS SELECT jsonb_build_object('a', $1::text) AS told",
            SECRET,
        )
    with leaks.expected() as found:
        await leaks.search_database(database_url)
    assert sorted(one.split(" shows")[0] for one in found) == [
        "column pipesync.later.told",
        "column pipesync.pipelines.sealed_config",
        "column pipesync.pipelines.status_message",
        "column pipesync.states.sync_state",
    ]
    async with database.connection() as connection:
        await connection.execute("DROP TABLE pipesync.later; TRUNCATE pipesync.pipelines CASCADE")
