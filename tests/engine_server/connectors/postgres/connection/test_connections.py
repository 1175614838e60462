"""Connections to Postgres: TLS, passwords and application names."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import structlog

from engine_server.connectors.files import SECRETS_DIRECTORY
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection import connect
from engine_server.connectors.postgres.destination import PostgresDestination
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import ConnectionStatus
from tests.engine_server.connectors.postgres.builders import customer, records, stream, write
from tests.engine_server.connectors.postgres.proxy import Proxy
from tests.engine_server.connectors.postgres.sessions import cut_others
from tests.messages import checkpoint
from tests.pipesync_server.certificates import Authority
from tests.postgres import PostgresCluster

# Tests may name any file.
ANYWHERE = {SECRETS_DIRECTORY: Path("/")}


async def _problem(**config: Any) -> str:
    """Return the message of a check; empty when it succeeds."""
    destination = PostgresDestination()
    parsed = PostgresConfig.model_validate(config, context=ANYWHERE)
    [message] = [message async for message in destination.check(parsed, [stream()])]
    status = message.connection_status
    assert (status.status == ConnectionStatus.STATUS_SUCCEEDED) == (not status.message)
    return status.message


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def tls_proxy(database_url: str, authority: Authority) -> AsyncIterator[Proxy]:
    """A server with a certificate for 127.0.0.1, and not for localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("postgres"))
    async with Proxy(database_url, tls=context) as proxy:
        yield proxy


@pytest.fixture
async def plain_proxy(database_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(database_url) as proxy:
        yield proxy


ENCRYPTED = [None, "allow", "prefer", "require", "verify-ca", "verify-full"]


@pytest.mark.parametrize("mode", ["disable", *ENCRYPTED])
async def test_a_server_with_a_certificate_of_our_authority_is_let_in_by_every_mode(
    tls_proxy: Proxy, authority: Authority, mode: str | None
) -> None:
    pem = authority.certificate.read_text() if mode in {None, "verify-ca", "verify-full"} else None
    assert await _problem(url=tls_proxy.url, ssl_mode=mode, ssl_ca_pem=pem) == ""
    # "allow" accepts a connection without TLS.
    assert (tls_proxy.encrypted > 0) == (mode not in {"disable", "allow"})


@pytest.mark.parametrize(
    ("mode", "said"),
    [("verify-ca", ""), ("verify-full", "not valid for 'localhost'"), (None, "not valid for")],
)
async def test_only_verify_ca_takes_a_certificate_for_another_host(
    tls_proxy: Proxy, authority: Authority, mode: str | None, said: str
) -> None:
    url = tls_proxy.url.replace("127.0.0.1", "localhost")
    pem = authority.certificate.read_text()
    problem = await _problem(url=url, ssl_mode=mode, ssl_ca_pem=pem)
    assert said in problem
    assert bool(problem) == bool(said)


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
async def test_a_certificate_of_another_authority_is_refused(
    tls_proxy: Proxy, tmp_path: Path, mode: str
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    pem = Authority(other).certificate.read_text()
    problem = await _problem(url=tls_proxy.url, ssl_mode=mode, ssl_ca_pem=pem)
    assert "CERTIFICATE_VERIFY_FAILED" in problem
    # Nor a certificate of an authority that the machine does not trust.
    assert "CERTIFICATE_VERIFY_FAILED" in await _problem(url=tls_proxy.url, ssl_mode=mode)


async def test_the_authorities_that_the_machine_trusts_are_trusted(
    tls_proxy: Proxy, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    assert await _problem(url=f"{tls_proxy.url}?sslmode=verify-full") == ""
    assert await _problem(url=f"{tls_proxy.url}?sslmode=verify-full&sslrootcert=system") == ""


async def test_the_url_may_name_the_file_of_the_authority(
    tls_proxy: Proxy, authority: Authority
) -> None:
    url = f"{tls_proxy.url}?sslmode=verify-full&sslrootcert="
    assert await _problem(url=f"{url}{authority.certificate}") == ""
    assert "sslrootcert, sslcert or sslkey" in await _problem(url=f"{url}/nowhere")


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_a_server_without_tls_is_refused_where_tls_is_required(
    plain_proxy: Proxy, authority: Authority, mode: str
) -> None:
    assert "rejected SSL upgrade" in await _problem(url=plain_proxy.url, ssl_mode=mode)
    pem = authority.certificate.read_text()
    assert "rejected SSL upgrade" in await _problem(url=plain_proxy.url, ssl_ca_pem=pem)


@pytest.mark.parametrize("mode", [None, "disable", "allow", "prefer"])
async def test_a_server_without_tls_is_accepted_where_tls_is_optional(
    plain_proxy: Proxy, mode: str | None
) -> None:
    assert await _problem(url=plain_proxy.url, ssl_mode=mode) == ""


async def test_parts_reach_the_same_database_as_a_url(
    tls_proxy: Proxy, authority: Authority, database: asyncpg.Connection
) -> None:
    parts = {
        "host": "127.0.0.1",
        "port": tls_proxy.port,
        "database": await database.fetchval("SELECT current_database()"),
        "user": "postgres",
        "ssl_ca_pem": authority.certificate.read_text(),
    }
    await write(
        PostgresConfig.model_validate(parts), [stream()], [records("customers", customer(1))]
    )
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == 1


@pytest.mark.parametrize(
    ("query", "given", "shown"),
    [("", None, "pipesync"), ("&application_name=mine", None, "mine"), ("", "ours", "ours")],
)
async def test_sessions_are_called_by_the_applications_name(
    database_url: str,
    database: asyncpg.Connection,
    query: str,
    given: str | None,
    shown: str,
    tables_made: asyncio.Event,
) -> None:
    config = PostgresConfig.model_validate({"url": database_url + query, "application_name": given})
    names: list[str] = []

    async def source() -> AsyncGenerator[Message, None]:
        await tables_made.wait()
        rows = await database.fetch(
            "SELECT application_name FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        names.extend(row["application_name"] for row in rows)
        yield records("customers", customer(1))

    await write(config, [stream()], source())
    assert names == [shown]


async def test_options_of_the_url_are_settings_of_the_session(database_url: str) -> None:
    options = "options=-c%20default_transaction_read_only%3Don"
    assert "is read-only" in await _problem(url=f"{database_url}&{options}")


async def test_parameters_that_the_server_would_not_know_do_not_reach_it(
    plain_proxy: Proxy,
) -> None:
    harmless = "pgbouncer=true&keepalives_idle=30&channel_binding=prefer&connect_timeout=5"
    assert await _problem(url=f"{plain_proxy.url}?{harmless}") == ""


async def test_a_connection_takes_no_longer_than_the_url_allows(plain_proxy: Proxy) -> None:
    plain_proxy.stall()
    async with asyncio.timeout(5):
        assert "did not answer in time" in await _problem(
            url=f"{plain_proxy.url}?connect_timeout=1"
        )


async def test_a_silent_server_is_given_up_although_the_url_allows_an_hour(
    plain_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "_MAX_TIMEOUT", 1.0)
    plain_proxy.stall()
    async with asyncio.timeout(20):
        assert "did not answer in time" in await _problem(
            url=f"{plain_proxy.url}?connect_timeout=3600"
        )


async def test_the_only_server_of_several_that_can_be_written_to_is_found(
    plain_proxy: Proxy, database: asyncpg.Connection
) -> None:
    name = await database.fetchval("SELECT current_database()")
    hosts = f"127.0.0.1:1,127.0.0.1:{plain_proxy.port}"
    url = f"postgresql://postgres@{hosts}/{name}?target_session_attrs=read-write"
    assert await _problem(url=url) == ""


@pytest.mark.parametrize("query", ["", "&sslmode=require", "&sslmode=prefer"])
async def test_channel_binding_needs_a_certificate_that_is_trusted(
    tls_proxy: Proxy,
    plain_proxy: Proxy,
    authority: Authority,
    query: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parameters = f"?channel_binding=require{query}"
    problem = await _problem(url=tls_proxy.url + parameters)
    assert "is not trusted" in problem
    assert "channel_binding=require needs one that is" in problem
    assert "rejected SSL upgrade" in await _problem(url=plain_proxy.url + parameters)
    pem = authority.certificate.read_text()
    assert await _problem(url=tls_proxy.url + parameters, ssl_ca_pem=pem) == ""
    # Like a provider with a public certificate.
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    assert await _problem(url=tls_proxy.url + parameters) == ""
    elsewhere = tls_proxy.url.replace("127.0.0.1", "localhost")
    assert "is not trusted" in await _problem(url=elsewhere + parameters)


async def test_a_server_that_does_not_answer_hides_no_other(
    plain_proxy: Proxy, tls_proxy: Proxy, authority: Authority
) -> None:
    plain_proxy.stall()
    hosts = f"127.0.0.1:{plain_proxy.port},127.0.0.1:{tls_proxy.port}"
    url = tls_proxy.url.replace(f"127.0.0.1:{tls_proxy.port}", hosts)
    pem = authority.certificate.read_text()
    assert await _problem(url=f"{url}?connect_timeout=1") == ""
    assert await _problem(url=f"{url}?connect_timeout=1", ssl_ca_pem=pem) == ""


@pytest.mark.parametrize("password", ["a+b", "a%2Bb"])
@pytest.mark.parametrize("in_query", [True, False])
async def test_a_plus_sign_in_a_password_is_one(
    database_url: str, database: asyncpg.Connection, role: str, password: str, in_query: bool
) -> None:
    await database.execute(f"ALTER ROLE {role} PASSWORD 'a+b'")
    if in_query:
        url = f"{database_url.replace('postgres@', f'{role}@')}&password={password}"
    else:
        url = database_url.replace("postgres@", f"{role}:{password}@")
    assert await _problem(url=url) == ""
    wrong = url.replace(password, "a%20b")
    assert "password authentication failed" in await _problem(url=wrong)


@pytest.fixture
async def role(
    postgres_cluster: PostgresCluster, database: asyncpg.Connection
) -> AsyncIterator[str]:
    """A role with the password "first secret"."""
    name = f"secretive_{await database.fetchval('SELECT current_database()')}"[:60]
    await database.execute(f"CREATE ROLE {name} SUPERUSER LOGIN PASSWORD 'first secret'")
    async with postgres_cluster.asking_for_passwords(name):
        yield name
    await database.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def test_a_password_is_read_from_its_file_for_each_connection(
    database_url: str,
    database: asyncpg.Connection,
    role: str,
    tmp_path: Path,
    tables_made: asyncio.Event,
) -> None:
    file = tmp_path / "password"
    file.write_text("first secret\n")
    config = PostgresConfig.model_validate(
        {
            "url": database_url.replace("postgres@", f"{role}@"),
            "password_file": str(file),
            "batch_size": 1,
        },
        context=ANYWHERE,
    )

    async def source() -> AsyncGenerator[Message, None]:
        yield records("customers", customer(1))
        yield checkpoint("customers", "1")
        await tables_made.wait()
        await database.execute(f"ALTER ROLE {role} PASSWORD 'second secret'")
        file.write_text("second secret\n")
        await cut_others(database)
        yield records("customers", customer(2))

    with structlog.testing.capture_logs() as captured:
        await write(config, [stream()], source())
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == 2
    assert "secret\n" not in repr(captured)
    assert "first secret" not in repr([captured, config])


async def test_a_wrong_password_and_a_missing_file_are_reported_without_the_password(
    database_url: str, role: str, tmp_path: Path
) -> None:
    url = database_url.replace("postgres@", f"{role}@")
    file = tmp_path / "password"
    problem = await _problem(url=url, password_file=str(file))
    assert "the file that password_file names cannot be read: No such file" in problem
    # Callers see the path masked.
    assert str(tmp_path) not in problem
    file.write_text("\n")
    assert "is empty" in await _problem(url=url, password_file=str(file))
    file.write_text("hunter2")
    problem = await _problem(url=url, password_file=str(file))
    assert "password authentication failed" in problem
    assert "hunter2" not in problem


@pytest.mark.parametrize("field", ["sslrootcert", "sslcert", "sslkey"])
@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_an_unreadable_certificate_is_reported_without_its_path(
    tls_proxy: Proxy, tmp_path: Path, field: str, content: str | None
) -> None:
    file = tmp_path / "named"
    if content is not None:
        file.write_text(content)
    url = f"{tls_proxy.url}?sslmode=verify-ca&{field}={file}"
    if field == "sslkey":
        url += f"&sslcert={tmp_path / 'postgres.pem'}"
    problem = await _problem(url=url)
    assert "sslrootcert, sslcert or sslkey in the Postgres url cannot be read: " in problem
    assert str(tmp_path) not in problem
