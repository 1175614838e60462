"""Pipelines with passwords from a command of the engine's operator."""

import asyncio
import shlex
import ssl
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
import structlog
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from engine_server.connectors.config import parse_config
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.errors import InvalidRequest
from engine_server.settings import EngineSettings
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig
from pipesync.v1.engine_service_pb2 import CONNECTOR_SIDE_DESTINATION, PipelineCheckRequest
from pipesync.v1.message_pb2 import Message
from pipesync_client import EngineClient
from pipesync_postgres.password_command import PasswordCommands
from pipesync_server.settings import read_settings
from tests.engine_server.connectors.postgres.builders import customer, records, stream, write
from tests.engine_server.connectors.postgres.connection.test_credentials import NosyServer
from tests.engine_server.connectors.postgres.proxy import Proxy
from tests.engine_server.connectors.postgres.sessions import cut_others
from tests.messages import checkpoint
from tests.pipesync_server.certificates import Authority
from tests.postgres import PostgresCluster
from tests.processes import running


@pytest.fixture
async def role(
    postgres_cluster: PostgresCluster, database: asyncpg.Connection
) -> AsyncIterator[str]:
    """A role with the password "first token"."""
    name = f"tokens_{await database.fetchval('SELECT current_database()')}"[:60]
    await database.execute(f"CREATE ROLE {name} SUPERUSER LOGIN PASSWORD 'first token'")
    async with postgres_cluster.asking_for_passwords(name):
        yield name
    await database.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """The file with the token that the command prints."""
    file = tmp_path / "token"
    file.write_text("first token\n")
    return file


def _command(tokens: Path) -> str:
    code = "import pathlib, sys; print(pathlib.Path(sys.argv[1]).read_text(), end='')"
    return shlex.join([sys.executable, "-c", code, str(tokens)])


def _parse(config: dict[str, Any], *entries: str) -> PostgresConfig:
    return parse_config(
        PostgresConfig,
        ParseDict(config, Struct()),
        "config",
        secrets_directory=Path("/run"),
        password_commands=PasswordCommands(entries),
    )


async def _problem(config: PostgresConfig) -> str:
    [message] = [message async for message in PostgresDestination().check(config, [stream()])]
    return message.connection_status.message


async def test_each_connection_has_a_token_that_is_still_good(
    database_url: str,
    database: asyncpg.Connection,
    role: str,
    tokens: Path,
    tables_made: asyncio.Event,
) -> None:
    url = database_url.replace("postgres@", f"{role}@")
    directory = parse_qs(urlsplit(url).query)["host"][0]
    entry = f"{directory}/{role}={_command(tokens)}"
    config = _parse({"url": url, "batch_size": 1}, entry)

    async def source() -> AsyncGenerator[Message, None]:
        yield records("customers", customer(1))
        yield checkpoint("customers", "1")
        await tables_made.wait()
        # The cached token has expired.
        await database.execute(f"ALTER ROLE {role} PASSWORD 'second token'")
        await asyncio.to_thread(tokens.write_text, "second token\n")
        await cut_others(database)
        yield records("customers", customer(2))

    with structlog.testing.capture_logs() as captured:
        await write(config, [stream()], source())
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == 2
    assert " token" not in repr([captured, config])


async def test_a_failed_command_is_named_without_its_output(
    database_url: str, role: str, tokens: Path
) -> None:
    url = database_url.replace("postgres@", f"{role}@")
    directory = parse_qs(urlsplit(url).query)["host"][0]
    await asyncio.to_thread(tokens.unlink)
    problem = await _problem(_parse({"url": url}, f"{directory}/{role}={_command(tokens)}"))
    assert f"the password command for user {role} at {directory}:5432 ended with" in problem


async def test_the_token_goes_to_its_own_host_and_to_no_other(
    database_url: str, role: str, tokens: Path, tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*Authority(tmp_path).issue("postgres"))
    async with NosyServer(context) as nosy, Proxy(database_url) as proxy:
        nosy_host = f"127.0.0.1:{nosy.port}"
        entry = f"127.0.0.1:{proxy.port}/{role}={_command(tokens)}"
        name = urlsplit(database_url).path
        for hosts in (nosy_host, f"{nosy_host},127.0.0.1:{proxy.port}"):
            await _problem(_parse({"url": f"postgresql://{role}@{hosts}{name}"}, entry))
        assert set(nosy.passwords) == {""}
        own = _parse({"url": f"postgresql://{role}@127.0.0.1:{proxy.port}{name}"}, entry)
        assert await _problem(own) == ""
        # The pipeline's own password takes precedence.
        mine = _parse({"url": f"postgresql://{role}:x@127.0.0.1:{proxy.port}{name}"}, entry)
        assert "password authentication failed" in await _problem(mine)
        parts = {"host": "127.0.0.1", "port": proxy.port, "user": role, "database": name[1:]}
        assert await _problem(_parse(parts, entry)) == ""
        assert "password authentication failed" in await _problem(
            _parse(parts | {"user": f"{role}"}, entry.replace(f"/{role}=", "/other="))
        )


PEM_NEEDED = "sends only to a server with a certificate"


@pytest.mark.parametrize(
    ("query", "is_safe"),
    [
        ("", False),
        ("?sslmode=require", False),
        ("?sslmode=verify-ca", False),
        ("?sslmode=verify-full", True),
        ("?sslmode=require&channel_binding=require", True),
        ("?sslmode=verify-full&sslrootcert=/run/ca.pem", True),
    ],
)
def test_a_token_is_only_sent_to_a_server_that_is_known(query: str, is_safe: bool) -> None:
    config = {"url": f"postgresql://writer@db.internal/d{query}"}
    entry = "db.internal/writer=token"
    if is_safe:
        assert _parse(config, entry).password_command(_parse(config, entry).hosts[0])
        return
    with pytest.raises(InvalidRequest, match=PEM_NEEDED):
        _parse(config, entry)
    # With its own password, or for another role, nothing changes.
    _parse({"url": config["url"].replace("writer", "writer:secret")}, entry)
    _parse({"url": config["url"].replace("writer", "reader")}, entry)


def test_an_authority_of_the_pipelines_author_is_not_trusted_with_a_token(tmp_path: Path) -> None:
    pem = Authority(tmp_path).certificate.read_text()
    config = {"url": "postgresql://writer@db.internal/d", "ssl_ca_pem": pem}
    _parse(config)
    with pytest.raises(InvalidRequest, match=PEM_NEEDED):
        _parse(config, "db.internal/writer=token")


def test_commands_are_given_by_flags_or_by_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = "one/me=token --query 'a,b'", "two/me=token a,three/me=x"
    arguments = ["--password-command", one, f"--password-command={two}"]
    assert read_settings(EngineSettings, arguments).password_command == (one, two)
    monkeypatch.setenv("PIPESYNC_PASSWORD_COMMAND", f"{one}\n\n{two}\n")
    assert read_settings(EngineSettings, []).password_command == (one, two)


def test_a_bad_command_keeps_the_engine_from_starting(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        read_settings(EngineSettings, ["--password-command", "one=token"])
    assert "--password-command: entry 1 must be HOST[:PORT]/USER=COMMAND" in capsys.readouterr().err


async def test_an_engine_process_uses_its_commands(
    database_url: str, role: str, tokens: Path
) -> None:
    async with (
        Proxy(database_url) as proxy,
        running(
            "engine_server",
            *("--listen", "127.0.0.1:0"),
            *("--password-command", "127.0.0.1:1/nobody=/nowhere"),
            *("--password-command", f"127.0.0.1:{proxy.port}/{role}={_command(tokens)}"),
        ) as engine,
        EngineClient(engine.address) as client,
    ):
        url = proxy.url.replace("postgres@", f"{role}@")
        config = ParseDict({"url": url}, Struct())
        key = ParseDict({"api_key": "sk_test_x"}, Struct())
        request = PipelineCheckRequest(
            pipeline=PipelineConfig(
                source=Connector(type="stripe", config=key),
                destination=Connector(type="postgres", config=config),
            ),
            side=CONNECTOR_SIDE_DESTINATION,
        )
        answers = [one async for one in client.pipeline_check(request)]
    statuses = [
        one.message.connection_status
        for one in answers
        if one.message.HasField("connection_status")
    ]
    assert [status.message for status in statuses] == [""]
