"""Access to every RPC of the engine."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from engine_server.access import POLICY
from engine_server.connectors.registry import ConnectorRegistry
from engine_server.servicer import EngineServicer
from pipesync.v1.engine_service_pb2 import DESCRIPTOR
from pipesync.v1.engine_service_pb2_grpc import add_EngineServiceServicer_to_server
from pipesync_rpc.channel import open_channel
from pipesync_rpc.credentials import ClientTls, ServerTls
from pipesync_rpc.errors import RpcError
from pipesync_rpc.status import from_grpc
from pipesync_server.server import RpcServer
from pipesync_server.tokens import hash_token
from tests.pipesync_server.certificates import Authority

SERVICE = DESCRIPTOR.services_by_name["EngineService"]
UNAVAILABLE, UNAUTHENTICATED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED
UNEXPECTED = (
    UNAVAILABLE,
    UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that asks for certificates, and some of them by their kinds.

    Attributes:
        address: Where it serves.
        certificates: The paths of the certificates and their keys.
        authority: Where the certificate is that the engine's own is signed with.
    """

    address: str
    certificates: Mapping[str, tuple[Path, Path]]
    authority: Path

    def channel(self, certificate: str | None, token: str | None) -> grpc.aio.Channel:
        path, key = self.certificates[certificate] if certificate is not None else (None, None)
        tls = ClientTls(ca=self.authority, certificate=path, private_key=key)
        return open_channel(self.address, tls=tls, token=token)


def server(**options: Any) -> RpcServer:
    """Return a server of an engine, not started."""
    servicer = EngineServicer(ConnectorRegistry.installed())
    return RpcServer(
        listen="127.0.0.1:0",
        register=lambda server: add_EngineServiceServicer_to_server(servicer, server),
        service_names=[SERVICE.full_name],
        policy=POLICY,
        **options,
    )


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    (tmp_path / "other").mkdir()
    authority, other = Authority(tmp_path), Authority(tmp_path / "other")
    made = {
        "service": authority.issue("service", host="service.example.com"),
        "stranger": authority.issue("service.example.com"),
        "of another authority": other.issue("service", host="service.example.com"),
        "outdated": authority.issue(
            "outdated", host="service.example.com", lifetime=timedelta(seconds=-1)
        ),
    }
    certificate, key = authority.issue("server")
    async with server(
        tls=ServerTls(certificate=certificate, private_key=key, client_ca=authority.certificate),
        client_certificates=["DNS:service.example.com"],
        token_hashes=[hash_token("known")],
    ) as running:
        yield Engine(running.address, made, authority.certificate)


async def codes(channel: grpc.aio.Channel) -> dict[str, grpc.StatusCode]:
    """Return the status code of an empty call by RPC."""
    answers = {}
    for method in SERVICE.methods:
        # Send the message together with the end of the requests: if a call is refused between the
        # two, grpc.aio reports an internal error instead.
        shape: Any = channel.unary_stream
        call = shape(f"/{SERVICE.full_name}/{method.name}")(b"", timeout=30)
        try:
            async for _ in call:
                pass
        except grpc.aio.AioRpcError as caught:
            error: RpcError = from_grpc(caught)
            answers[method.name] = next(
                one for one in grpc.StatusCode if one.value[0] == error.code
            )
        else:
            answers[method.name] = grpc.StatusCode.OK
    assert answers
    return answers


@pytest.mark.parametrize(
    ("certificate", "token", "refusal"),
    [
        ("service", None, None),
        ("service", "wrong", UNAUTHENTICATED),
        ("service", "known", None),
        ("stranger", None, UNAUTHENTICATED),
        ("stranger", "wrong", UNAUTHENTICATED),
        ("stranger", "known", None),
        (None, "known", UNAVAILABLE),
        ("of another authority", "known", UNAVAILABLE),
        ("outdated", "known", UNAVAILABLE),
    ],
)
async def test_certificates_and_tokens_at_every_rpc(
    engine: Engine, certificate: str | None, token: str | None, refusal: grpc.StatusCode | None
) -> None:
    async with engine.channel(certificate, token) as channel:
        answers = await codes(channel)
    if refusal is not None:
        assert set(answers.values()) == {refusal}
    else:
        assert not [name for name, code in answers.items() if code in UNEXPECTED]


@pytest.mark.parametrize(("token", "is_let_in"), [(None, False), ("wrong", False), ("known", True)])
async def test_tokens_at_every_rpc(token: str | None, is_let_in: bool) -> None:
    async with (
        server(token_hashes=[hash_token("known")]) as running,
        open_channel(running.address, token=token) as channel,
    ):
        answers = await codes(channel)
    if is_let_in:
        assert not [name for name, code in answers.items() if code in UNEXPECTED]
    else:
        assert set(answers.values()) == {UNAUTHENTICATED}
