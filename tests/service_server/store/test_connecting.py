"""Connections to the service's own database."""

import asyncio
import re
import shlex
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from pydantic import ValidationError

from pipesync_postgres.password_command import PasswordCommand
from service_server.errors import StoreUnavailable
from service_server.settings.service import ServiceSettings
from service_server.store.connecting import check_url
from service_server.store.database import Database
from tests.engine_server.connectors.postgres.proxy import Proxy
from tests.pipesync_server.certificates import Authority
from tests.postgres import PostgresCluster
from tests.service_server.test_program import refused


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def tls_proxy(database_url: str, authority: Authority) -> AsyncIterator[Proxy]:
    """Return a proxy whose certificate is for 127.0.0.1, but not for localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("postgres"))
    async with Proxy(database_url, tls=context) as proxy:
        yield proxy


@pytest.fixture
async def role(
    postgres_cluster: PostgresCluster, database_url: str
) -> AsyncIterator[tuple[str, asyncpg.Connection]]:
    """Return a role that needs its password, "a+b", and a session that may change it."""
    database = await asyncpg.connect(database_url)
    name = f"plus_{await database.fetchval('SELECT current_database()')}"[:60]
    await database.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'a+b'")
    async with postgres_cluster.asking_for_passwords(name):
        yield name, database
    await database.execute(f"DROP ROLE {name}")
    await database.close()


async def _session(url: str, command: PasswordCommand | None = None) -> asyncpg.Record:
    async with (
        Database.open(url, password_command=command) as database,
        database.connection() as connection,
    ):
        [session] = await connection.fetch(
            "SELECT current_user::text AS role, current_setting('application_name') AS name,"
            " current_setting('work_mem') AS memory"
        )
        return session


@pytest.mark.parametrize("query", ["&password=a+b", "&password=a%2Bb"])
async def test_a_plus_sign_in_a_password_is_literal(
    database_url: str, role: tuple[str, asyncpg.Connection], query: str
) -> None:
    url = database_url.replace("postgres@", f"{role[0]}@")
    assert (await _session(url + query))["role"] == role[0]


async def test_session_settings_in_a_url_are_applied(database_url: str) -> None:
    providers = (
        "&pgbouncer=true&keepalives=1&keepalives_idle=30&gssencmode=prefer&connect_timeout=9"
    )
    found = await _session(f"{database_url}{providers}&options=-c%20work_mem%3D5MB")
    assert (found["name"], found["memory"]) == ("pipesync service-server", "5MB")
    assert (await _session(f"{database_url}&application_name=a+b"))["name"] == "a+b"


@pytest.mark.parametrize("query", ["", "&sslmode=require"])
async def test_channel_binding_needs_a_trusted_certificate(
    tls_proxy: Proxy, authority: Authority, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{tls_proxy.url}?channel_binding=require{query}"
    with pytest.raises(StoreUnavailable, match=r"certificate .* is not trusted"):
        await _session(url)
    await _session(f"{url}&sslrootcert={authority.certificate}")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    await _session(url)
    elsewhere = tls_proxy.url.replace("127.0.0.1", "localhost")
    with pytest.raises(StoreUnavailable, match=r"certificate .* is not trusted"):
        await _session(f"{elsewhere}?channel_binding=require")


async def test_the_authorities_of_the_system_can_be_selected(
    tls_proxy: Proxy, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    await _session(f"{tls_proxy.url}?sslmode=verify-full&sslrootcert=system")


async def test_a_silent_server_hides_no_other_server(database_url: str) -> None:
    async with Proxy(database_url) as silent, Proxy(database_url) as good:
        silent.stall()
        hosts = f"127.0.0.1:{silent.port},127.0.0.1:{good.port}"
        await _session(good.url.replace(f"127.0.0.1:{good.port}", hosts) + "?connect_timeout=1")


async def test_a_command_prints_the_password_of_each_new_connection(
    database_url: str, role: tuple[str, asyncpg.Connection], tmp_path: Path
) -> None:
    name, admin = role
    tokens = tmp_path / "token"
    await asyncio.to_thread(tokens.write_text, "a+b\n")
    code = "import pathlib, sys; print(pathlib.Path(sys.argv[1]).read_text(), end='')"
    command = PasswordCommand.parse(shlex.join([sys.executable, "-c", code, str(tokens)]), "us")
    url = database_url.replace("postgres@", f"{name}@")
    async with Database.open(url, password_command=command) as database:
        async with database.connection() as first:
            await admin.execute(f"ALTER ROLE {name} PASSWORD 'renewed'")
            await asyncio.to_thread(tokens.write_text, "renewed\n")
            # The pool has no other connection, so it opens one with the new password.
            async with database.connection() as second:
                pids = [await one.fetchval("SELECT pg_backend_pid()") for one in (first, second)]
        assert len(set(pids)) == 2
    await asyncio.to_thread(tokens.unlink)
    fresh = PasswordCommand.parse(shlex.join([sys.executable, "-c", code, str(tokens)]), "us")
    with pytest.raises(StoreUnavailable):
        await _session(url, fresh)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("sslmode=on", "sslmode must be one of"),
        ("sslmode=disable&channel_binding=require", "sslmode=disable is without"),
        ("host=/run&channel_binding=require", "a Unix socket is without"),
        ("search_path=mine", "goes into options=-c name=value"),
        ("hostaddr=10.0.0.1", "give the address as host"),
        ("gssencmode=require", "gssencmode must be one of"),
        ("passfile=/run/pgpass&service=prod&sslcrl=/run/crl", ""),
        ("sslmode=require&channel_binding=require&options=endpoint%3Dep", ""),
        ("target_session_attrs=read-write&sslnegotiation=direct&sslmode=require", ""),
    ],
)
def test_each_parameter_is_honoured_or_refused_by_name(query: str, said: str) -> None:
    url = f"postgresql://me:hunter2@h/d?{query}"
    if not said:
        check_url(url)
        return
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        check_url(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["x" * 64, "a..b", ".a", "h,a..b", "\ud800"])
def test_an_unresolvable_host_is_refused_without_its_name(host: str) -> None:
    with pytest.raises(ValueError, match="a host must be a name or an address") as caught:
        check_url(f"postgresql://me:hunter2@{host}/d")
    assert host not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://me@h/d?sslmode=verify-full", ""),
        ("postgresql://me@h/d?channel_binding=require", ""),
        ("postgresql://me@127.0.0.1,localhost/d", ""),
        ("postgresql://me@/d?host=/run/postgresql", ""),
        ("postgresql://me@h/d", "needs sslmode=verify-full"),
        ("postgresql://me@127.0.0.1,h/d?sslmode=require", "needs sslmode=verify-full"),
        ("postgresql://me@h/d?sslmode=verify-ca&sslrootcert=system", "needs sslmode=verify-full"),
        ("postgresql://me:x@h/d?sslmode=verify-full", "has a password already"),
        ("postgresql://h/d?sslmode=verify-full", "must name a host and a user"),
        ("postgresql://me@/d", "must name a host and a user"),
    ],
)
def test_a_printed_password_is_only_sent_to_a_verified_server(url: str, said: str) -> None:
    settings = {"database_url": url, "database_password_command": "token --for me"}
    if not said:
        assert ServiceSettings.model_validate(settings).password_command
        return
    with pytest.raises(ValidationError) as caught:
        ServiceSettings.model_validate(settings)
    assert said in str(caught.value)


async def test_a_service_with_an_unusable_url_exits_with_the_reason() -> None:
    code, said = await refused("--database-url", "postgresql://me:hunter2@h/d?sslmode=on")
    assert code == 2
    assert "--database-url: sslmode must be one of" in said
    code, said = await refused("--database-password-command", "token")
    assert code == 2
    assert "--database-url: is required with a password command" in said
    assert "hunter2" not in said
