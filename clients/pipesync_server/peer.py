"""The remote end of a call's connection."""

# Context types are generic in their stubs only.
from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from pipesync_server.certificates import Certificate, parse_certificate
from pipesync_server.client_address import FORWARDED_FOR_KEY, TrustedProxies, peer_address
from pipesync_server.interceptors.messages import BytesContext


class Peer:
    """Properties of a caller's connection.

    Attributes:
        certificate: The client certificate; None without one.
    """

    def __init__(
        self, *, address: str | Callable[[], str] = "", certificate: Certificate | None = None
    ) -> None:
        """Take the known properties.

        Args:
            address: Address, as ``TrustedProxies.client`` returns it, or a function that finds it:
                few calls need it, and finding it takes a noticeable part of a small call. Empty if
                unknown.
            certificate: The client certificate.
        """
        self._address = address
        self.certificate = certificate

    @property
    def address(self) -> str:
        """Address behind the trusted proxies; empty if unknown."""
        return self._address if isinstance(self._address, str) else self._address()


UNKNOWN_PEER = Peer()

# Peer of the call that the current task handles.
peer: ContextVar[Peer] = ContextVar("peer", default=UNKNOWN_PEER)


def peer_of_call(context: BytesContext, proxies: TrustedProxies) -> Peer:
    """Return the peer of a gRPC call.

    Args:
        context: Context of the call.
        proxies: Proxies whose X-Forwarded-For is believed.
    """

    def address() -> str:
        forwarded = ",".join(
            str(value)
            for key, value in context.invocation_metadata() or ()
            if key == FORWARDED_FOR_KEY
        )
        return proxies.client(peer_address(context.peer()), forwarded)

    shown = next(iter(context.auth_context().get("x509_pem_cert", ())), None)
    return Peer(address=address, certificate=parse_certificate(shown) if shown else None)
