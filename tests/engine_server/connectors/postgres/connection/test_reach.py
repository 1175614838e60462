"""Databases that an engine may connect to when its users do not own the network."""

import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from engine_server.connectors.config import parse_config
from engine_server.connectors.files import SECRETS_DIRECTORY
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection.connect import connect
from engine_server.connectors.postgres.connection.pools import Pools
from engine_server.connectors.reach import REACH, AllowedHosts, Reach
from engine_server.errors import ConnectionFailed, InvalidRequest
from tests.engine_server.connectors.postgres.proxy import Proxy
from tests.engine_server.connectors.resolving import Resolver, resolver
from tests.pipesync_server.certificates import Authority

CONFINED = Reach(is_confined=True)


def refusal(reach: Reach, **config: Any) -> str:
    """Return the refused field of a configuration and the reason; empty when it is accepted."""
    try:
        parse_config(PostgresConfig, ParseDict(config, Struct()), "config", reach=reach)
    except InvalidRequest as error:
        [violation] = error.field_violations
        return f"{violation.field} {violation.description}"
    return ""


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1"],
)
def test_a_configuration_that_leads_home_is_refused_by_its_field(host: str) -> None:
    assert refusal(CONFINED, host=host).startswith("config.host ")
    in_brackets = f"[{host}]" if ":" in host else host
    assert refusal(CONFINED, url=f"postgresql://{in_brackets}/d").startswith("config.url ")
    assert refusal(CONFINED, url=f"postgresql:///d?host={host}").startswith("config.url ")
    assert refusal(Reach(), host=host) == ""


def test_every_host_of_a_list_is_checked() -> None:
    for hosts in ("10.0.0.1,127.1", "db.example.com,10.0.0.1,/run/postgresql", "a.example,[::1]"):
        assert "which this engine does not connect to" in refusal(
            CONFINED, url=f"postgresql://h/d?host={hosts}"
        )
    assert refusal(CONFINED, url="postgresql://db.example.com,10.0.0.1:6432/d") == ""


def test_sockets_and_urls_without_a_host_are_for_an_engine_that_is_open() -> None:
    assert "is a Unix socket" in refusal(CONFINED, host="/run/postgresql")
    assert "must name a host" in refusal(CONFINED, url="postgresql://me@/d")
    listed = Reach(allowed=AllowedHosts(["/run/postgresql"]))
    assert refusal(listed, host="/run/postgresql") == ""
    assert "not among the hosts" in refusal(listed, host="db.example.com")
    assert refusal(Reach(), url="postgresql://me@/d") == ""


@pytest.fixture
async def tls_proxy(database_url: str, tmp_path: Path) -> AsyncIterator[Proxy]:
    """A server with a certificate for db.example.com only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*Authority(tmp_path).issue("postgres", host="db.example.com"))
    async with Proxy(database_url, tls=context) as proxy:
        yield proxy


def config_for(proxy: Proxy, host: str, leads: Resolver, **fields: Any) -> PostgresConfig:
    """A configuration with a host that the operator allows, which leads to the proxy."""
    reach = Reach(
        allowed=AllowedHosts([".example.com", "db.example.com", "cert.example.com"]), resolve=leads
    )
    url = proxy.url.replace("127.0.0.1", host)
    return PostgresConfig.model_validate({"url": url, **fields}, context={REACH: reach})


async def test_tls_verifies_the_name_though_the_address_is_pinned(
    tls_proxy: Proxy, tmp_path: Path
) -> None:
    pem = (tmp_path / "ca.pem").read_text()
    leads = resolver(db__example__com=["127.0.0.1"], cert__example__com=["127.0.0.1"])
    connection = await connect(config_for(tls_proxy, "db.example.com", leads, ssl_ca_pem=pem))
    try:
        assert await connection.fetchval("select 1") == 1
    finally:
        await connection.close()
    assert tls_proxy.encrypted == 1
    with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for 'cert\.example\.com'"):
        await connect(config_for(tls_proxy, "cert.example.com", leads, ssl_ca_pem=pem))


@pytest.mark.parametrize("mode", ["disable", "prefer", "require"])
async def test_the_address_is_resolved_once_for_each_connection(
    tls_proxy: Proxy, mode: str
) -> None:
    # The second answer would name another machine.
    leads = Resolver({"db.example.com": [["127.0.0.1"], ["192.0.2.1"]]})
    config = config_for(tls_proxy, "db.example.com", leads, ssl_mode=mode)
    connection = await connect(config)
    try:
        # Cancelling a statement needs another connection.
        with pytest.raises(TimeoutError):
            await connection.execute("select pg_sleep(60)", timeout=0.05)
        assert await connection.fetchval("select 1") == 1
    finally:
        await connection.close()
    assert leads.asked == ["db.example.com"]
    assert tls_proxy.accepted == 2


async def test_a_name_that_leads_home_is_not_connected_to(tls_proxy: Proxy) -> None:
    leads = resolver(below__example__com=["127.0.0.1"], db__example__com=["127.0.0.1"])
    with pytest.raises(ConnectionFailed, match=r"below\.example\.com leads to the engine"):
        await connect(config_for(tls_proxy, "below.example.com", leads))
    # The next host of the list is not tried, although it is allowed.
    both = config_for(
        tls_proxy, f"below.example.com:{tls_proxy.port},db.example.com", leads, ssl_mode="disable"
    )
    with pytest.raises(ConnectionFailed, match=r"below\.example\.com"):
        await connect(both)
    assert tls_proxy.accepted == 0


async def test_each_address_of_a_name_is_tried(tls_proxy: Proxy) -> None:
    leads = resolver(db__example__com=["::1", "127.0.0.1"])
    connection = await connect(config_for(tls_proxy, "db.example.com", leads, ssl_mode="disable"))
    assert await connection.fetchval("select 1") == 1
    await connection.close()


async def test_a_name_without_an_address_is_a_database_out_of_reach(tls_proxy: Proxy) -> None:
    with pytest.raises(OSError, match="is unknown"):
        await connect(config_for(tls_proxy, "db.example.com", resolver()))


async def test_connections_of_an_open_engine_are_not_lent_to_a_confined_call(
    database_url: str,
) -> None:
    listed = Reach(allowed=AllowedHosts([*_socket_directories(database_url)]))
    first = PostgresConfig.model_validate({"url": database_url})
    second = PostgresConfig.model_validate({"url": database_url}, context={REACH: listed})
    pools = Pools()
    async with pools.open(first) as one, pools.open(second) as other, pools.open(first) as again:
        assert one is again
        assert one is not other
        assert await other.fetchval("select 1") == 1


def _socket_directories(database_url: str) -> list[str]:
    parsed = PostgresConfig.model_validate({"url": database_url})
    return [host.name for host in parsed.hosts]


@pytest.mark.parametrize("field", ["password_file", "sslrootcert", "sslcert", "sslkey"])
async def test_a_file_that_became_a_pipe_is_refused_without_blocking(
    field: str, tls_proxy: Proxy, tmp_path: Path
) -> None:
    path = tmp_path / "secret"
    said: dict[str, Any] = {"password_file": str(path)}
    if field != "password_file":
        said = {"url": f"{tls_proxy.url}?sslmode=require&{field}={path}"}
        if field == "sslkey":
            said["url"] += f"&sslcert={tmp_path / 'postgres.pem'}"
    else:
        said["url"] = tls_proxy.url
    config = PostgresConfig.model_validate(said, context={SECRETS_DIRECTORY: tmp_path})
    os.mkfifo(path)
    with pytest.raises(ConnectionFailed, match="no pipe, device or directory"):
        await connect(config)
