"""A server that a pipeline names gets the credentials of the pipeline, never the operator's own."""

import asyncio
import ssl
from pathlib import Path
from typing import Any, Self

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from engine_server.connectors.files import SECRETS_DIRECTORY
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from tests.loopback_server import LoopbackServer
from tests.pipesync_server.certificates import Authority

# https://www.postgresql.org/docs/current/protocol-message-formats.html
_SSL_REQUEST = 80877103
_CLEARTEXT_PASSWORD = b"R" + (8).to_bytes(4) + (3).to_bytes(4)


class NosyServer:
    """Asks every client for a certificate and a password, and refuses all.

    Attributes:
        port: The port at 127.0.0.1.
        passwords: The received passwords.
        certificates: Whether each client over TLS sent one.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._server = LoopbackServer(self._serve)
        self.passwords: list[str] = []
        self.certificates: list[bool] = []

    @property
    def port(self) -> int:
        return self._server.port

    async def __aenter__(self) -> Self:
        await self._server.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        start = await _block(reader)
        if int.from_bytes(start[:4]) == _SSL_REQUEST:
            writer.write(b"S")
            await writer.start_tls(self._tls)
            shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            self.certificates.append(shown is not None)
            await _block(reader)
        writer.write(_CLEARTEXT_PASSWORD)
        assert await reader.readexactly(1) == b"p"
        self.passwords.append((await _block(reader)).rstrip(b"\0").decode())


async def _block(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4)) - 4)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def tls(authority: Authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("postgres"))
    context.load_verify_locations(authority.certificate)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


@pytest.fixture(autouse=True)
def _operator(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's user has a password and a certificate in every place that libpq reads."""
    certificate, key = authority.issue("operator")
    home = tmp_path / "home"
    (home / ".postgresql").mkdir(parents=True)
    (home / ".postgresql" / "postgresql.crt").write_bytes(certificate.read_bytes())
    (home / ".postgresql" / "postgresql.key").write_bytes(key.read_bytes())
    passwords = home / ".pgpass"
    passwords.touch(mode=0o600)
    passwords.write_text("*:*:*:*:operator's own\n")
    services = home / ".pg_service.conf"
    services.write_text("[prod]\npassword=operator's own\n")
    environment = {
        "HOME": home,
        "PGPASSFILE": passwords,
        "PGPASSWORD": "operator's own",
        "PGSERVICEFILE": services,
        "PGSERVICE": "prod",
        "PGSSLCERT": certificate,
        "PGSSLKEY": key,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))


async def _call(config: dict[str, Any]) -> str:
    parsed = PostgresConfig.model_validate(config, context={SECRETS_DIRECTORY: Path("/")})
    [message] = [message async for message in PostgresDestination().check(parsed, [])]
    return message.connection_status.message


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me@{host}/db",
        "postgresql://me:@{host}/db",
        "postgresql://me@{host}/db?password=",
        "postgresql://me@{host}/db?sslmode=allow",
        "postgresql://me@{host}/db?sslmode=require",
        # Of two "@", some parsers end the user at the first.
        "postgresql://me@x:secret@{host}/db",
        None,
    ],
)
async def test_no_password_or_certificate_of_the_engines_user_is_sent(
    tls: ssl.SSLContext, url: str | None
) -> None:
    async with NosyServer(tls) as server:
        host = {"host": "127.0.0.1", "port": server.port, "user": "me"}
        config = {"url": url.format(host=f"127.0.0.1:{server.port}")} if url else host
        assert "cannot be reached" in await _call(config)
    assert server.passwords
    assert set(server.passwords) <= {"", "secret"}
    assert not any(server.certificates)


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-full"])
async def test_the_pipelines_own_credentials_are_sent(
    tls: ssl.SSLContext, authority: Authority, mode: str
) -> None:
    certificate, key = authority.issue("pipeline")
    async with NosyServer(tls) as server:
        await _call(
            {
                "url": f"postgresql://me:p%40ss:w%2Frd@127.0.0.1:{server.port}/db?sslmode={mode}"
                f"&sslcert={certificate}&sslkey={key}&sslrootcert={authority.certificate}"
            }
        )
    assert set(server.passwords) == {"p@ss:w/rd"}
    assert server.certificates[0]


async def test_an_encrypted_key_is_read_with_its_password_without_a_prompt(
    tls: ssl.SSLContext, authority: Authority, tmp_path: Path
) -> None:
    certificate, key = authority.issue("pipeline")
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(
        load_pem_private_key(key.read_bytes(), None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"opensesame")
        )
    )
    async with NosyServer(tls) as server:
        url = (
            f"postgresql://me@127.0.0.1:{server.port}/db?sslmode=require"
            f"&sslcert={certificate}&sslkey={encrypted}"
        )
        await _call({"url": f"{url}&sslpassword=opensesame"})
        assert server.certificates == [True]
        assert "cannot be read" in await _call({"url": url})
