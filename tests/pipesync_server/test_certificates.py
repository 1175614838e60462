"""Names in client certificates, and the callers that they admit."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import ValidationError

from engine_server.settings import EngineSettings
from pipesync.v1.engine_service_pb2 import ListConnectorsRequest
from pipesync.v1.engine_service_pb2_grpc import EngineServiceStub
from pipesync_rpc.channel import open_channel
from pipesync_rpc.credentials import ClientTls, ServerTls
from pipesync_rpc.errors import RpcError
from pipesync_rpc.status import from_grpc
from pipesync_server.certificates import Certificate, parse_certificate, parse_subject
from pipesync_server.peer import Peer
from pipesync_server.settings import ServerSettings
from pipesync_server.tokens import TokenAuthenticator, Unauthenticated, hash_token
from tests.pipesync_server.certificates import Authority
from tests.pipesync_server.scripted_engine import engine_server, scripted_engine

SPIFFE = "spiffe://example.com/team-a"


def shown(*names: str, seconds: float = 60) -> Peer:
    """Return a peer with a certificate of these names."""
    expire_time = datetime.now(UTC) + timedelta(seconds=seconds)
    return Peer(certificate=Certificate(names=names, expire_time=expire_time))


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (f"URI:{SPIFFE}", f"URI:{SPIFFE}"),
        ("dns:CI.Example.com", "DNS:ci.example.com"),
        ("cn:Team A", "CN:Team A"),
    ],
)
def test_a_subject_has_one_spelling(given: str, name: str) -> None:
    assert parse_subject(given) == name


@pytest.mark.parametrize(
    "text", ["", "ci", "CN:", "IP:10.0.0.1", "CN:a\nb", f"CN:{'a' * 513}", " CN:a"]
)
def test_an_invalid_subject_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"URI:\.\.\. or DNS:"):
        parse_subject(text)


def test_alternative_names_come_before_the_common_name(tmp_path: Path) -> None:
    path, _ = Authority(tmp_path).issue("ci", host="CI.example.com", uris=[SPIFFE])
    pem = path.read_bytes()
    parsed = parse_certificate(pem)
    assert parsed.names == (f"URI:{SPIFFE}", "DNS:ci.example.com", "CN:ci")
    assert not parsed.is_expired
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    assert parse_certificate(der) == parsed


@pytest.mark.parametrize("encoded", [b"", b"-----BEGIN CERTIFICATE-----", b"\x30\x03abc"])
def test_an_unreadable_certificate_has_no_name(encoded: bytes) -> None:
    parsed = parse_certificate(encoded)
    assert parsed.names == ()
    assert parsed.is_expired


AUTHENTICATOR = TokenAuthenticator([hash_token("known")], ["CN:service", f"URI:{SPIFFE}"])


def test_a_certificate_is_known_by_each_of_its_names_only() -> None:
    caller = AUTHENTICATOR.admit("", shown("DNS:other", "CN:service"))
    assert (caller.name, caller.certificate) == ("CN:service", "CN:service")
    for names in ((), ("DNS:service",), ("CN:Service",), ("URI:service",)):
        with pytest.raises(Unauthenticated, match="does not know its certificate"):
            AUTHENTICATOR.admit("", shown(*names))


def test_a_token_takes_precedence_over_a_certificate() -> None:
    assert AUTHENTICATOR.admit("Bearer known", shown("CN:stranger")).name == "operator"
    with pytest.raises(Unauthenticated, match="does not know this token"):
        AUTHENTICATOR.admit("Bearer wrong", shown("CN:service"))


def test_an_expired_certificate_is_refused_on_an_open_connection() -> None:
    with pytest.raises(Unauthenticated, match="has expired"):
        AUTHENTICATOR.admit("", shown("CN:service", seconds=-1))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"client_certificates": "ci"}, "must be a name of the certificate"),
        ({"client_certificates": ","}, "must hold at least one name, or be left out"),
        ({"client_certificates": "CN:ci"}, "client_certificates needs tls_client_ca"),
    ],
)
def test_a_server_refuses_to_start_with_invalid_certificate_settings(
    given: dict[str, str], sentence: str
) -> None:
    with pytest.raises(ValidationError, match=sentence):
        ServerSettings.model_validate({"listen": "127.0.0.1:0", **given})


def test_an_engine_with_a_client_authority_requires_credentials_of_its_services() -> None:
    tls = {"tls_certificate": "a.pem", "tls_private_key": "a.key", "tls_client_ca": "ca.pem"}
    with pytest.raises(ValidationError, match="tls_client_ca needs client_certificates"):
        EngineSettings.model_validate(tls)
    known = {**tls, "client_certificates": "DNS:Service.example.com, CN:other"}
    assert EngineSettings.model_validate(known).client_certificates == (
        "DNS:service.example.com",
        "CN:other",
    )
    EngineSettings.model_validate({**tls, "token_hashes": hash_token("known")})


async def test_a_server_admits_the_certificates_that_it_knows(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    tls = ServerTls(certificate=certificate, private_key=key, client_ca=authority.certificate)
    server = engine_server(
        scripted_engine(),
        tls=tls,
        client_certificates=[f"URI:{SPIFFE}"],
        token_hashes=[hash_token("known")],
    )

    async def call(name: str, *, uris: tuple[str, ...] = (), token: str | None = None) -> None:
        own, own_key = authority.issue(name, uris=uris)
        client = ClientTls(ca=authority.certificate, certificate=own, private_key=own_key)
        async with open_channel(server.address, tls=client, token=token) as channel:
            try:
                await EngineServiceStub(channel).ListConnectors(ListConnectorsRequest())
            except grpc.aio.AioRpcError as error:
                raise from_grpc(error) from None

    async with server:
        await call("service", uris=(SPIFFE,))
        await call("stranger", token="known")
        with pytest.raises(RpcError, match="its names are CN:stranger") as caught:
            await call("stranger")
        assert caught.value.reason == "UNAUTHENTICATED"
        with pytest.raises(RpcError, match="does not know this token"):
            await call("service", uris=(SPIFFE,), token="wrong")
