"""Proxies: those of the environment are left alone, and one that a setting names is used."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

from tests.processes import ServerProcess, run_pipelines, running

HIJACKING = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")


class ConnectProxy:
    """An HTTP proxy that serves CONNECT.

    Attributes:
        url: Its address.
        targets: What it was asked to connect to.
        authorizations: The credentials of each request.
    """

    def __init__(self) -> None:
        self.targets: list[str] = []
        self.authorizations: list[str] = []
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            target = head.split()[1]
            self.targets.append(target)
            self.authorizations += [
                line.partition(": ")[2]
                for line in head.splitlines()
                if line.lower().startswith("proxy-authorization")
            ]
            host, _, port = target.rpartition(":")
            onward = await asyncio.open_connection(host, int(port))
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await asyncio.gather(_pump(reader, onward[1]), _pump(onward[0], writer))
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[ConnectProxy]:
    async with ConnectProxy() as one:
        yield one


def _environment(proxy: ConnectProxy, **more: str) -> Mapping[str, str]:
    both = [(name, name.upper()) for name in HIJACKING]
    # Nobody answers at a port that is closed, so a hijacked call fails.
    hijacking = {name: "http://127.0.0.1:1" for names in both for name in names}
    # gRPC's own, for addresses in place of names.
    hijacking["GRPC_ADDRESS_HTTP_PROXY"] = "127.0.0.1:1"
    hijacking["GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES"] = "127.0.0.0/8"
    return hijacking | more


@pytest.mark.parametrize("no_proxy", [None, "", "10.0.0.1,10.0.0.2", "127.0.0.1,localhost"])
async def test_proxies_of_the_environment_hijack_no_call(
    proxy: ConnectProxy,
    engine: ServerProcess,
    service_database_url: str,
    tmp_path: Path,
    no_proxy: str | None,
) -> None:
    environment = dict(_environment(proxy))
    if no_proxy is not None:
        environment |= {"no_proxy": no_proxy, "NO_PROXY": no_proxy}
    async with running(
        "service_server",
        *("--listen", "127.0.0.1:0", "--engine", f"ipv4:{engine.address},127.0.0.1:1"),
        *("--data-dir", str(tmp_path)),
        environment={**environment, "PIPESYNC_DATABASE_URL": service_database_url},
    ) as service:
        result = await run_pipelines(service.address, "connectors", environment=environment)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "postgres" in result.stdout


async def test_a_proxy_that_a_setting_names_is_used(
    proxy: ConnectProxy, engine: ServerProcess, service_database_url: str, tmp_path: Path
) -> None:
    named = proxy.url.replace("//", "//me:secret@")
    async with running(
        "service_server",
        *("--listen", "127.0.0.1:0", "--engine", engine.address, "--data-dir", str(tmp_path)),
        environment={
            "PIPESYNC_DATABASE_URL": service_database_url,
            "PIPESYNC_ENGINE_PROXY": named,
        },
    ) as service:
        result = await run_pipelines(
            service.address, "--proxy", proxy.url, "connectors", environment=_environment(proxy)
        )
    assert (result.exit_code, result.stderr) == (0, "")
    assert set(proxy.targets) == {engine.address, service.address}
    # "me:secret" in base64.
    assert set(proxy.authorizations) == {"Basic bWU6c2VjcmV0"}


@pytest.mark.parametrize(
    ("service", "proxy_url", "said"),
    [
        ("127.0.0.1:1", "127.0.0.1:3128", "must be http://host:port"),
        ("127.0.0.1:1", "https://proxy:3128", "must be http://host:port"),
        ("127.0.0.1:1", "http://me:hunter2@proxy", "must be http://host:port"),
        ("unix:/run/pipesync", "http://proxy:3128", "no proxy leads to unix:/run/pipesync"),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", "http://proxy:3128", "no proxy leads to ipv4:"),
    ],
)
async def test_a_proxy_that_cannot_be_used_is_refused(
    service: str, proxy_url: str, said: str
) -> None:
    result = await run_pipelines(service, "--proxy", proxy_url, "connectors")
    assert result.exit_code == 1
    assert said in result.stderr
    assert "hunter2" not in result.stderr
