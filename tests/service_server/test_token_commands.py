"""Tests for the commands ``service-server tokens``."""

import asyncio
import os
import subprocess

import pytest

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from pipesync_server.tokens import hash_token
from service_server.settings.service import ServiceSettings
from service_server.store import tokens
from service_server.store.database import Database
from tests.programs import programs
from tests.service_server.replicas import replica


@pytest.fixture
def environment(settings: ServiceSettings) -> dict[str, str]:
    url = settings.database_url
    assert url is not None
    return {"PIPESYNC_DATABASE_URL": url.get_secret_value()}


async def tokens_command(environment: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    """Run the command, and return its exit code, stdout and stderr."""
    process = await programs.start(
        *("service_server", "tokens", *arguments),
        environment={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, error = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), error.decode()


async def test_a_token_is_printed_once_and_valid_until_it_is_revoked(
    environment: dict[str, str], settings: ServiceSettings, database: Database
) -> None:
    given = ("create", "ci", "--scope", "sync", "--prefix", "ci-", "--days", "30")
    code, out, log = await tokens_command(environment, *given)
    assert code == 0
    (token,) = out.split()
    assert token not in log
    async with database.connection() as connection:
        (stored,) = await tokens.list_all(connection)
    assert stored.hash == hash_token(token)

    async with (
        replica(settings) as service,
        PipelineClient(service.process.address, token=token) as client,
    ):
        await client.list_pipelines(pb.ListPipelinesRequest())
        _, out, _ = await tokens_command(environment, "list")
        header, row = out.splitlines()
        assert header.split()[:3] == ["NAME", "SCOPE", "PREFIX"]
        assert row.split()[:3] == ["ci", "sync", "ci-"]
        assert row.endswith("valid")
        assert token not in out

        assert (await tokens_command(environment, "revoke", "ci"))[0] == 0
        with pytest.raises(RpcError) as caught:
            await asyncio.wait_for(_list_for_ever(client), 30)
        assert caught.value.reason == "UNAUTHENTICATED"

    # The name of a revoked token may be reused.
    assert (await tokens_command(environment, "create", "ci", "--scope", "read"))[0] == 0


async def test_a_certificate_is_admitted_without_a_token(
    environment: dict[str, str], database: Database
) -> None:
    given = ("create", "ci", "--scope", "sync", "--certificate", "dns:CI.example.com")
    code, out, log = await tokens_command(environment, *given)
    assert (code, out) == (0, "")
    assert "certificate_admitted" in log
    async with database.connection() as connection:
        (stored,) = await tokens.list_all(connection)
    assert (stored.hash, stored.certificate) == (None, "DNS:ci.example.com")
    _, out, _ = await tokens_command(environment, "list")
    assert out.splitlines()[1].split()[:4] == ["ci", "sync", "-", "DNS:ci.example.com"]
    # A certificate can be admitted once.
    code, _, error = await tokens_command(
        environment, "create", "other", "--scope", "read", "--certificate", "DNS:ci.example.com"
    )
    assert code == 1
    assert "already, or one for 'DNS:ci.example.com': revoke it first" in error
    assert (await tokens_command(environment, "revoke", "ci"))[0] == 0


async def _list_for_ever(client: PipelineClient) -> None:
    while True:
        await client.list_pipelines(pb.ListPipelinesRequest())
        await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("revoke", "nobody"), 1, "there is no token 'nobody' to revoke"),
        (("create", "a b", "--scope", "read"), 2, "--name: must be 1 to 64 letters"),
        (
            ("create", "a", "--scope", "all"),
            2,
            "--scope: input should be 'read', 'sync' or 'admin'",
        ),
        (("create", "a", "--scope", "read", "--prefix", "team"), 2, "--prefix: must be a letter"),
        (("create", "a", "--scope", "read", "--prefix", ""), 2, "prefix must not be empty"),
        (
            ("create", "operator", "--scope", "read"),
            2,
            "--name: is the name in logs",
        ),
        (("create", "Anyone", "--scope", "read"), 2, "--name: is the name in logs"),
        (("create", "a", "--scope", "read", "--days", "0"), 2, "--days: input should be greater"),
        (
            ("create", "a", "--scope", "read", "--certificate", "ci"),
            2,
            "--certificate: must be a name of the certificate",
        ),
        ((), 2, "give create, list or revoke"),
    ],
)
async def test_a_failed_command_is_reported_in_one_sentence(
    environment: dict[str, str], arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    ended, out, error = await tokens_command(environment, *arguments)
    assert ended == code
    assert sentence in error
    assert "Traceback" not in error
    assert not out


async def test_two_valid_tokens_do_not_share_a_name(environment: dict[str, str]) -> None:
    assert (await tokens_command(environment, "create", "ci", "--scope", "read"))[0] == 0
    code, out, error = await tokens_command(environment, "create", "ci", "--scope", "admin")
    assert (code, out) == (1, "")
    assert "there is a token 'ci' already" in error
