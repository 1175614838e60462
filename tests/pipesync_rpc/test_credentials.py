"""TLS settings, and the addresses that require them."""

from pathlib import Path

import grpc
import pytest

from pipesync.v1.engine_service_pb2 import ListConnectorsRequest
from pipesync.v1.engine_service_pb2_grpc import EngineServiceStub
from pipesync_rpc.channel import InsecureToken, open_channel
from pipesync_rpc.credentials import (
    CannotListen,
    ClientTls,
    ServerTls,
    is_loopback,
    refuse_insecure_listen,
)
from pipesync_server.tokens import hash_token
from tests.pipesync_server.certificates import Authority
from tests.pipesync_server.scripted_engine import engine_server, scripted_engine

TLS = ServerTls(certificate=Path("server.pem"), private_key=Path("server.key"))
MUTUAL = ServerTls(
    certificate=Path("server.pem"), private_key=Path("server.key"), client_ca=Path("ca.pem")
)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:50051",
        "127.0.0.2:0",
        "[::1]:50051",
        "localhost:50051",
        "unix:/run/engine.sock",
        "dns:///localhost:1",
        "ipv4:127.0.0.1:1",
        "ipv6:[::1]:1",
        "ipv4:127.0.0.1:1,127.0.0.2:2",
    ],
)
def test_only_this_machine_reaches_loopback(address: str) -> None:
    assert is_loopback(address)
    refuse_insecure_listen(address, None, [])


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0:50051",
        "[::]:50051",
        "10.0.0.1:1",
        "engine:50051",
        "localhost.example.com:1",
        ":1",
        "ipv4:127.0.0.1:1,10.0.0.1:2",
        "127.0.0.1:1,10.0.0.1:2",
    ],
)
def test_a_network_address_requires_tls_and_authenticated_callers(address: str) -> None:
    assert not is_loopback(address)
    with pytest.raises(CannotListen, match="needs TLS"):
        refuse_insecure_listen(address, None, [hash_token("t")])
    with pytest.raises(CannotListen, match="a token or a client CA"):
        refuse_insecure_listen(address, TLS, [])
    refuse_insecure_listen(address, TLS, [hash_token("t")])
    refuse_insecure_listen(address, MUTUAL, [])


async def test_a_server_refuses_to_start_unsafely() -> None:
    server = engine_server(scripted_engine(), listen="0.0.0.0:0")
    with pytest.raises(CannotListen, match="needs TLS"):
        await server.start()


def test_a_token_is_not_sent_over_a_network_in_plain_text() -> None:
    with pytest.raises(InsecureToken, match=r"to engine\.example:50051 in plain text"):
        open_channel("engine.example:50051", token="abc")


async def test_new_connections_use_changed_certificates(tmp_path: Path) -> None:
    old, new = Authority(_directory(tmp_path / "old")), Authority(_directory(tmp_path / "new"))
    certificate, key = old.issue("server")
    client_certificate, client_key = new.issue("client")
    tls = ServerTls(certificate=certificate, private_key=key, client_ca=old.certificate)
    known = ClientTls(ca=new.certificate, certificate=client_certificate, private_key=client_key)

    async def call(address: str) -> None:
        async with open_channel(address, tls=known) as channel:
            await EngineServiceStub(channel).ListConnectors(ListConnectorsRequest())

    async with engine_server(scripted_engine(), tls=tls) as server:
        with pytest.raises(grpc.aio.AioRpcError):
            await call(server.address)
        new_certificate, new_key = new.issue("server")
        old.certificate.write_bytes(new.certificate.read_bytes())
        certificate.write_bytes(new_certificate.read_bytes())
        # The new key is still missing: the server keeps its old certificate.
        with pytest.raises(grpc.aio.AioRpcError):
            await call(server.address)
        key.write_bytes(new_key.read_bytes())
        await call(server.address)


def _directory(path: Path) -> Path:
    path.mkdir()
    return path


async def test_mutual_tls_admits_clients_that_the_authority_signed(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    client_certificate, client_key = authority.issue("client")
    tls = ServerTls(certificate=certificate, private_key=key, client_ca=authority.certificate)
    known = ClientTls(
        ca=authority.certificate, certificate=client_certificate, private_key=client_key
    )
    async with engine_server(scripted_engine(), tls=tls) as server:
        async with open_channel(server.address, tls=known) as channel:
            await EngineServiceStub(channel).ListConnectors(ListConnectorsRequest())
        unknown = ClientTls(ca=authority.certificate)
        async with open_channel(server.address, tls=unknown) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await EngineServiceStub(channel).ListConnectors(ListConnectorsRequest())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_client_refuses_a_server_that_its_authority_did_not_sign(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    certificate, key = Authority(tmp_path).issue("server")
    tls = ServerTls(certificate=certificate, private_key=key)
    other = ClientTls(ca=Authority(tmp_path / "other").certificate)
    async with (
        engine_server(scripted_engine(), tls=tls) as server,
        open_channel(server.address, tls=other) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await EngineServiceStub(channel).ListConnectors(ListConnectorsRequest())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_missing_pem_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    tls = ServerTls(certificate=tmp_path / "none.pem", private_key=tmp_path / "none.key")
    with pytest.raises(CannotListen, match=r"cannot listen on .*: .*No such file"):
        await engine_server(scripted_engine(), tls=tls).start()
