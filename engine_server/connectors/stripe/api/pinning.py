"""Connections of aiohttp to hosts that the engine may connect to, at the addresses checked."""

import socket
from collections.abc import Collection
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from engine_server.connectors.addresses import parse_host
from engine_server.connectors.reach import HostRefused, Reach


def tcp_connector(
    reach: Reach, *, own: Collection[str], limit: int = 100, has_proxy: bool = False
) -> aiohttp.TCPConnector:
    """Return the connector of a session.

    Args:
        reach: The hosts that it may connect to.
        own: See ``Reach.check``.
        limit: The most concurrent connections.
        has_proxy: Whether it connects only to a proxy of the operator's, which resolves the hosts'
            names, so that only the names can be checked, by ``Reach.check_name``.
    """
    if reach.is_open or has_proxy:
        return aiohttp.TCPConnector(limit=limit)

    def checked_socket(info: Any) -> socket.socket:
        family, kind, protocol, _, (address, *_) = info
        # A literal address bypasses the resolver.
        if address not in resolver.checked and not _is_allowed(reach, address, own):
            raise HostRefused(f"{address} is not among the hosts of this engine")
        return socket.socket(family, kind, protocol)

    resolver = _CheckedResolver(reach, own)
    return aiohttp.TCPConnector(limit=limit, resolver=resolver, socket_factory=checked_socket)


class _CheckedResolver(AbstractResolver):
    """Resolver that checks that a name and all its addresses are allowed.

    Attributes:
        checked: All addresses that it returned.
    """

    def __init__(self, reach: Reach, own: Collection[str]) -> None:
        self._reach = reach
        self._own = own
        self.checked: set[str] = set()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses; TLS and the Host header still use the name."""
        addresses = await self._reach.addresses(host, port, own=self._own)
        self.checked.update(map(str, addresses))
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Do nothing: no resources are held."""


def _is_allowed(reach: Reach, address: str, own: Collection[str]) -> bool:
    try:
        parsed = parse_host(address)
        reach.check(address, own=own)
    except (ValueError, HostRefused):
        return False
    return not isinstance(parsed, str) and reach.admits(parsed)
