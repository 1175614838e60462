"""Address of a caller behind trusted proxies."""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import unquote

FORWARDED_FOR_KEY = "x-forwarded-for"
# The peer of a Unix socket; in the settings, a trusted proxy that connects through one.
UNIX = "unix"
# A home or an office gets a /64, and its hosts may use any address of it (RFC 6177, section 2).
_IPV6_PREFIX = 64

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TrustedProxies:
    """The proxies whose X-Forwarded-For the server believes."""

    def __init__(self, proxies: Sequence[str] = ()) -> None:
        """Take addresses, networks such as ``10.0.0.0/8``, and ``unix`` for Unix sockets.

        Raises:
            ValueError: An item is none of these.
        """
        self._trusts_unix = UNIX in proxies
        self._networks = tuple(
            ipaddress.ip_network(proxy, strict=False) for proxy in proxies if proxy != UNIX
        )

    def client(self, peer: str, forwarded_for: str) -> str:
        """Return the address that limits count by.

        Args:
            peer: Remote end of the connection, from ``peer_address``.
            forwarded_for: The header X-Forwarded-For; empty if there is none. Each proxy appends
                the address that it was called from, so the header is read from its end, while each
                entry comes from a trusted proxy.

        Returns:
            An IPv4 address, the /64 network of an IPv6 address, or ``unix``.
        """
        client = peer
        for hop in reversed(forwarded_for.split(",") if forwarded_for else ()):
            if not self.trusts(client):
                break
            address = _parsed(hop.strip())
            if address is None:
                break
            client = str(address)
        return _grouped(client)

    def trusts(self, address: str) -> bool:
        """Return whether an address, or ``unix``, is a trusted proxy."""
        if address == UNIX:
            return self._trusts_unix
        parsed = _parsed(address)
        return parsed is not None and any(parsed in network for network in self._networks)


def peer_address(peer: str) -> str:
    """Return the address in gRPC's name of a peer, such as ``ipv4:10.0.0.1:4711``.

    Source: https://grpc.github.io/grpc/core/md_doc_naming.html

    Returns:
        An address, or ``unix`` for a peer without one.
    """
    scheme, _, rest = unquote(peer).partition(":")
    if scheme not in ("ipv4", "ipv6"):
        return UNIX
    return rest.rpartition(":")[0].removeprefix("[").removesuffix("]")


def _parsed(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


# Called for each call of a caller without a name.
@lru_cache(maxsize=4096)
def _grouped(text: str) -> str:
    address = _parsed(text)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address), _IPV6_PREFIX), strict=False))
    return text if address is None else str(address)
