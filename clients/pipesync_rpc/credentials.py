"""TLS for both ends, and what a server may listen on without it."""

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import grpc


class CannotListen(Exception):
    """A server refuses to start, or cannot: the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """A server's side of TLS, as paths of PEM files.

    Attributes:
        certificate: The server's certificate chain.
        private_key: Its key.
        client_ca: Who signs clients' certificates: when given, a client must have one (mutual TLS).
    """

    certificate: Path
    private_key: Path
    client_ca: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Reads the files.

        Raises:
            OSError: a file cannot be read.
        """
        return grpc.ssl_server_credentials(
            [(self.private_key.read_bytes(), self.certificate.read_bytes())],
            root_certificates=self.client_ca.read_bytes() if self.client_ca else None,
            require_client_auth=self.client_ca is not None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """A client's side of TLS, as paths of PEM files.

    Attributes:
        ca: Who signs servers' certificates; None trusts the authorities that come with gRPC.
        certificate: The client's own certificate chain, for mutual TLS.
        private_key: Its key.
    """

    ca: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files.

        Raises:
            OSError: a file cannot be read.
        """
        return grpc.ssl_channel_credentials(
            root_certificates=self.ca.read_bytes() if self.ca else None,
            private_key=self.private_key.read_bytes() if self.private_key else None,
            certificate_chain=self.certificate.read_bytes() if self.certificate else None,
        )


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach ``address``.

    Args:
        address: ``host:port``, ``[::1]:port``, ``unix:/path``, or one of these after ``dns:///``,
            ``ipv4:`` or ``ipv6:``; after the latter two there may be several, between commas.
    """
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    for scheme in ("ipv4:", "ipv6:"):
        if address.startswith(scheme):
            return all(map(_is_loopback, address.removeprefix(scheme).split(",")))
    return _is_loopback(address.removeprefix("dns:///"))


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0] if not address.endswith("]") else address
    host = host.removeprefix("[").removesuffix("]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refuse_insecure_listen(
    address: str, tls: ServerTls | None, token_hashes: Collection[str]
) -> None:
    """Lets a server listen beyond this machine only with TLS and something to know its callers by.

    Raises:
        CannotListen: ``address`` is not loopback, and TLS is missing, or both a token and a client
            authority are.
    """
    if is_loopback(address):
        return
    if tls is None:
        raise CannotListen(
            f"{address} can be reached from other machines, so it needs TLS: give a certificate and"
            " its key, or listen on 127.0.0.1"
        )
    if not token_hashes and tls.client_ca is None:
        raise CannotListen(
            f"{address} can be reached from other machines, so callers must show who they are: give"
            " a token or a client CA, or listen on 127.0.0.1"
        )
