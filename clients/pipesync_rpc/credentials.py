"""TLS settings of clients and servers, and the rule on listening without TLS."""

import ipaddress
import ssl
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import grpc
import structlog

_log = structlog.get_logger(__name__)


class CannotListen(Exception):
    """A server refuses to listen, or cannot; the message gives the reason and remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """TLS settings of a server, as paths of PEM files.

    Attributes:
        certificate: The server's certificate chain.
        private_key: Key of the certificate.
        client_ca: Authority of clients' certificates. When set, every client must present a
            certificate (mutual TLS).
    """

    certificate: Path
    private_key: Path
    client_ca: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that reload the files before a new connection when they have changed.

        Raises:
            OSError: A file cannot be read.
        """
        watch = CertificateWatch(self)
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            # The callback returns None for "unchanged"; its stub lacks this.
            lambda: self._configuration() if watch.has_changed() else cast("Any", None),
            require_client_authentication=self.client_ca is not None,
        )

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(self.private_key.read_bytes(), self.certificate.read_bytes())],
            root_certificates=self.client_ca.read_bytes() if self.client_ca else None,
        )


class CertificateWatch:
    """Detects changes of a server's TLS files."""

    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls
        self._seen = self._state()
        self._lock = threading.Lock()

    def has_changed(self) -> bool:
        """Return whether the files have changed since this last returned True; thread-safe.

        An unusable change, such as a certificate without its new key, is logged, and checked again
        by the next call.
        """
        with self._lock:
            state = self._state()
            if state == self._seen:
                return False
            try:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(self._tls.certificate, self._tls.private_key)
                if self._tls.client_ca is not None:
                    context.load_verify_locations(self._tls.client_ca)
            except (OSError, ValueError) as error:
                _log.warning("certificates_unusable", error=str(error) or type(error).__name__)
                return False
            if self._state() != state:
                return False  # The files are still being replaced.
            self._seen = state
        _log.info("certificates_read")
        return True

    def _state(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(
            map(_file_state, (self._tls.certificate, self._tls.private_key, self._tls.client_ca))
        )


def _file_state(path: Path | None) -> tuple[int, int, int] | None:
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """TLS settings of a client, as paths of PEM files.

    Attributes:
        ca: Authority of servers' certificates; None trusts the authorities that ship with gRPC.
        certificate: The client's own certificate chain, for mutual TLS.
        private_key: Key of the certificate.
    """

    ca: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Return credentials from the files.

        Raises:
            OSError: A file cannot be read.
        """
        return grpc.ssl_channel_credentials(
            root_certificates=self.ca.read_bytes() if self.ca else None,
            private_key=self.private_key.read_bytes() if self.private_key else None,
            certificate_chain=self.certificate.read_bytes() if self.certificate else None,
        )


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach an address.

    Args:
        address: ``host:port``, ``[::1]:port``, ``unix:/path``, or one of these after ``dns:///``,
            ``ipv4:`` or ``ipv6:``. The latter two take several addresses, separated by commas.
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
    """Refuse to listen beyond loopback without TLS and a way to authenticate callers.

    Raises:
        CannotListen: The address is not loopback, and TLS is missing, or both tokens and a client
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
            f"{address} can be reached from other machines, so callers must authenticate: give a"
            " token or a client CA, or listen on 127.0.0.1"
        )
