"""Confinement of calls, by the engine's settings and by the call's metadata."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from engine_server.connectors.reach import AllowedHosts, Reach
from engine_server.connectors.registry import ConnectorRegistry
from engine_server.servicer import EngineServicer
from engine_server.settings import EngineSettings
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig
from pipesync.v1.engine_service_pb2 import DESCRIPTOR, PipelineCheckRequest
from pipesync.v1.engine_service_pb2_grpc import add_EngineServiceServicer_to_server
from pipesync_client import EngineClient
from pipesync_rpc import context as call_context
from pipesync_rpc.confinement import (
    CONFINED_KEY,
    NOT_CONFINED,
    SECRETS_FOLDER_KEY,
    Confinement,
)
from pipesync_rpc.errors import RpcError
from pipesync_server.server import RpcServer
from pipesync_server.settings import ServerSettings, read_settings
from service_server.settings.service import ServiceSettings
from tests.messages import struct

SOURCE = "pipeline.source.config.base_url"
HOST = "pipeline.destination.config.host"
FILE = "pipeline.destination.config.password_file"


@asynccontextmanager
async def serving(registry: ConnectorRegistry) -> AsyncIterator[str]:
    """Yield the address of an engine with this registry."""
    server = RpcServer(
        listen="127.0.0.1:0",
        register=lambda server: add_EngineServiceServicer_to_server(
            EngineServicer(registry), server
        ),
        service_names=[DESCRIPTOR.services_by_name["EngineService"].full_name],
    )
    async with server:
        yield server.address


async def refused(address: str, metadata: Iterable[tuple[str, str]], **config: str) -> set[str]:
    """Return the refused fields of a pipeline on this machine, in a call with this metadata."""
    request = PipelineCheckRequest(
        pipeline=PipelineConfig(
            source=Connector(
                type="stripe",
                config=struct({"api_key": "sk_test_1", "base_url": "http://127.0.0.1:1"}),
            ),
            destination=Connector(
                type="postgres", config=struct({"host": "127.0.0.1", "user": "me", **config})
            ),
        ),
        validate_only=True,
    )
    async with EngineClient(address, metadata=lambda: metadata) as client:
        try:
            async for _ in client.pipeline_check(request):
                pass
        except RpcError as error:
            return {violation.field for violation in error.field_violations}
    return set()


async def test_a_call_of_a_shared_service_does_not_reach_the_engines_machine() -> None:
    async with serving(ConnectorRegistry.installed()) as address:
        assert await refused(address, []) == set()
        # Any value confines, even a malformed one.
        for value in ("1", "0", "false", ""):
            assert await refused(address, [(CONFINED_KEY, value)]) == {SOURCE, HOST}


async def test_no_call_loosens_the_rules_of_the_engine() -> None:
    confined = ConnectorRegistry.installed(reach=Reach(is_confined=True))
    async with serving(confined) as address:
        for metadata in ([], [(CONFINED_KEY, "0")], [(SECRETS_FOLDER_KEY, "")]):
            assert await refused(address, metadata) == {SOURCE, HOST}
    listed = ConnectorRegistry.installed(reach=Reach(allowed=AllowedHosts(["127.0.0.1"])))
    async with serving(listed) as address:
        for metadata in ([], [(CONFINED_KEY, "1")]):
            assert await refused(address, metadata) == set()


async def test_a_call_may_use_only_the_folder_it_names(tmp_path: Path) -> None:
    for folder in ("ours-", "theirs-"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "password").write_text("secret")
    ours = {"password_file": str(tmp_path / "ours-" / "password")}
    theirs = {"password_file": str(tmp_path / "theirs-" / "password")}
    registry = ConnectorRegistry.installed(secrets_directory=tmp_path)
    async with serving(registry) as address:
        assert await refused(address, [], **theirs) == set()
        named = [(SECRETS_FOLDER_KEY, "ours-orders")]
        assert await refused(address, named, **ours) == set()
        assert await refused(address, named, **theirs) == {FILE}
        for none in ([(CONFINED_KEY, "1")], [(SECRETS_FOLDER_KEY, "")]):
            assert FILE in await refused(address, none, **ours)


def test_a_pipeline_that_a_caller_names_by_itself_gives_it_no_folder() -> None:
    call_context.bind_incoming({"x-pipeline-id": "theirs-orders"})
    assert call_context.confined_to_pipeline() == [(CONFINED_KEY, "1")]
    call_context.bind(pipeline_id="ours-orders")
    assert (SECRETS_FOLDER_KEY, "ours-orders") in call_context.confined_to_pipeline()
    call_context.bind(pipeline_id="no folder")
    assert call_context.confined_to_pipeline() == [(CONFINED_KEY, "1")]
    call_context.bind(pipeline_id="")
    assert call_context.confined_to_pipeline() == [(CONFINED_KEY, "1")]


@pytest.mark.parametrize(
    "asked",
    [
        NOT_CONFINED,
        Confinement(is_confined=True, secrets_folder=""),
        Confinement(is_confined=True, secrets_folder="ours"),
        Confinement(secrets_folder="ours"),
        Confinement(secrets_folder=""),
    ],
)
def test_the_confinement_of_a_call_reaches_the_engine(asked: Confinement) -> None:
    assert Confinement.of_metadata(dict(asked.metadata())) == asked


def test_an_engine_beyond_loopback_is_confined_or_limited_to_its_list() -> None:
    assert EngineSettings(listen="127.0.0.1:0").reach.is_open
    assert EngineSettings(listen="unix:/run/engine").reach.is_open
    assert EngineSettings(listen="0.0.0.0:1").reach.is_confined
    listed = read_settings(EngineSettings, ["--allowed-hosts", "db.example.com, 10.0.0.0/8"]).reach
    assert listed.allowed is not None
    assert listed.check("10.1.1.1")
    assert not listed.is_open


def test_an_invalid_list_prevents_the_start(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        read_settings(EngineSettings, ["--allowed-hosts", "10.0.0.1/8"])
    assert "--allowed-hosts: 10.0.0.1/8 is no network" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["", ",", " , "])
@pytest.mark.parametrize("is_flag", [True, False])
def test_an_empty_list_prevents_the_start(
    given: str,
    is_flag: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not is_flag:
        monkeypatch.setenv("PIPESYNC_ALLOWED_HOSTS", given)
    with pytest.raises(SystemExit) as ended:
        read_settings(EngineSettings, [f"--allowed-hosts={given}"] if is_flag else [])
    assert ended.value.code == 2
    assert "allowed_hosts must hold at least one host, or be left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (EngineSettings, "secrets_directory"),
        (EngineSettings, "tls_certificate"),
        (EngineSettings, "tls_client_ca"),
        (ServiceSettings, "engine_ca"),
        (ServiceSettings, "data_dir"),
    ],
)
def test_an_empty_path_is_not_the_working_directory(
    model: type[ServerSettings],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(f"PIPESYNC_{name.upper()}", "")
    with pytest.raises(SystemExit):
        read_settings(model, [])
    assert f"--{name.replace('_', '-')}: must be a path, or be left out" in capsys.readouterr().err
