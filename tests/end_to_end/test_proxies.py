"""Proxies: those of the environment are ignored, and one named in a setting is used."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from tests.loopback_proxy import LoopbackProxy
from tests.processes import ServerProcess, run_pipelines, running

HIJACKING = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")


@pytest.fixture
async def proxy() -> AsyncIterator[LoopbackProxy]:
    async with LoopbackProxy() as one:
        yield one


def _environment(proxy: LoopbackProxy, **more: str) -> Mapping[str, str]:
    both = [(name, name.upper()) for name in HIJACKING]
    # Nothing answers at a closed port, so a hijacked call fails.
    hijacking = {name: "http://127.0.0.1:1" for names in both for name in names}
    # gRPC's own variables, for addresses in place of names.
    hijacking["GRPC_ADDRESS_HTTP_PROXY"] = "127.0.0.1:1"
    hijacking["GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES"] = "127.0.0.0/8"
    return hijacking | more


@pytest.mark.parametrize("no_proxy", [None, "", "10.0.0.1,10.0.0.2", "127.0.0.1,localhost"])
async def test_proxies_of_the_environment_hijack_no_call(
    proxy: LoopbackProxy,
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
    proxy: LoopbackProxy, engine: ServerProcess, service_database_url: str, tmp_path: Path
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
    # "me:secret" in base64.
    said = "proxy-authorization: basic bwu6c2vjcmv0\r\n"
    shown = {(head.split()[1], said in head.lower()) for head in proxy.heads}
    assert shown == {(engine.address, True), (service.address, False)}


@pytest.mark.parametrize(
    ("service", "proxy_url", "said"),
    [
        ("127.0.0.1:1", "127.0.0.1:3128", "must be http://host:port"),
        ("127.0.0.1:1", "https://proxy:3128", "must be http://host:port"),
        ("127.0.0.1:1", "http://me:hunter2@proxy", "must be http://host:port"),
        ("unix:/run/pipesync", "http://proxy:3128", "a proxy cannot reach unix:/run/pipesync"),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", "http://proxy:3128", "a proxy cannot reach ipv4:"),
    ],
)
async def test_a_proxy_that_cannot_be_used_is_refused(
    service: str, proxy_url: str, said: str
) -> None:
    result = await run_pipelines(service, "--proxy", proxy_url, "connectors")
    assert result.exit_code == 1
    assert said in result.stderr
    assert "hunter2" not in result.stderr
