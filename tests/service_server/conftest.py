"""Fixtures: a database with the service's tables, a scripted engine, and a service on both."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from pydantic import SecretStr

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig
from pipesync_client import PipelineClient
from service_server.bootstrap import running_service
from service_server.settings.service import ServiceSettings
from service_server.store.database import Database
from service_server.store.migrate import migrate
from tests.databases import EMPTY, Databases, Template
from tests.service_server.scripted_engine import ScriptedEngine, serving

SECRET = "sk_test_planted"
KEY = base64.b64encode(bytes(range(32))).decode()


def connector(kind: str = "scripted", **config: object) -> Connector:
    """Return a connector with ``config``, and with the planted secret unless it has one."""
    return Connector(type=kind, config=ParseDict({"api_key": SECRET, **config}, Struct()))


def pipeline(pipeline_id: str = "first") -> pb.Pipeline:
    """Return a valid pipeline."""
    config = PipelineConfig(source=connector(), destination=connector(api_key=f"{SECRET}_2"))
    return pb.Pipeline(id=pipeline_id, config=config)


async def _migrate(url: str) -> None:
    async with Database.open(url) as database:
        await migrate(database)


_MIGRATED = Template("template_of_service", _migrate)


@pytest.fixture
async def database_url(request: pytest.FixtureRequest, databases: Databases) -> AsyncIterator[str]:
    """Yield the URL of a database: with the service's tables if the test needs them, or empty."""
    needs_tables = "database" in request.fixturenames
    async with databases.taken(_MIGRATED if needs_tables else EMPTY) as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database.open(database_url) as database:
        yield database


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()  # type: ignore[abstract]  # it has the service's RPCs


@pytest.fixture
async def engine_address(engine: ScriptedEngine) -> AsyncIterator[str]:
    async with serving(engine) as address:
        yield address


@pytest.fixture
def settings(
    database: Database, database_url: str, engine_address: str, tmp_path: Path
) -> ServiceSettings:
    return ServiceSettings(
        listen="127.0.0.1:0",
        engine=engine_address,
        database_url=SecretStr(database_url),
        data_dir=tmp_path,
        encryption_keys=SecretStr(KEY),
        drain_seconds=5,
        lease_seconds=3,
    )


@pytest.fixture
async def client(settings: ServiceSettings) -> AsyncIterator[PipelineClient]:
    async with running_service(settings) as server, PipelineClient(server.address) as client:
        yield client


@pytest.fixture
async def created(client: PipelineClient) -> pb.Pipeline:
    """Return the pipeline "first", as it was created."""
    answer = await client.create_pipeline(pb.CreatePipelineRequest(pipeline=pipeline()))
    return answer.pipeline
