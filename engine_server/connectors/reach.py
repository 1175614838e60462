"""Rules for the hosts that connectors may connect to."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TypeAlias

from engine_server.connectors.addresses import (
    Address,
    is_local_or_metadata,
    is_of_interface,
    parse_host,
    unmapped,
    with_embedded,
)
from pipesync_rpc.redaction import redact

Network: TypeAlias = IPv4Network | IPv6Network
# Returns the addresses of a name and a port as text, the preferred one first; raises OSError.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

# Key of the rules in pydantic's validation context; without it, every host is allowed.
REACH = "reach"

_ASK = "ask its operator (--allowed-hosts)"


class HostRefused(OSError):
    """The engine may not connect to the host. The message is written for the pipeline's creator."""


async def resolve_by_system(name: str, port: int) -> Sequence[str]:
    """Return the addresses from the machine's resolver, without duplicates."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class AllowedHosts:
    """List of names, suffixes, networks and directories of Unix sockets."""

    def __init__(self, entries: Iterable[str]) -> None:
        """Parse the entries.

        Args:
            entries: ``db.example.com``; ``.example.com`` for every name below it; ``10.0.0.0/8`` or
                an address; ``/run/postgresql`` for the sockets in that directory.

        Raises:
            ValueError: An entry has none of these forms; the message names it.
        """
        names: set[str] = set()
        self._suffixes: list[str] = []
        self._networks: list[Network] = []
        self._directories: set[str] = set()
        for entry in entries:
            if entry.startswith("/"):
                self._directories.add(entry.rstrip("/"))
            elif entry.startswith((".", "*.")):
                self._suffixes.append("." + _name(entry.removeprefix("*").removeprefix("."), entry))
            elif "/" in entry:
                self._networks.append(_network(entry))
            else:
                host = _host(entry)
                if isinstance(host, str):
                    names.add(host)
                else:
                    self._networks.append(ip_network(host))
        self._names = frozenset(names)

    @property
    def has_networks(self) -> bool:
        """Whether the list has networks, so that a name may be allowed by its addresses."""
        return bool(self._networks)

    def names(self, name: str) -> bool:
        """Return whether the list has exactly this name."""
        return name in self._names

    def has_suffix_of(self, name: str) -> bool:
        """Return whether the list has a suffix of this name."""
        return any(name.endswith(suffix) for suffix in self._suffixes)

    def holds(self, address: Address) -> bool:
        """Return whether the address belongs to a network in the list."""
        return any(unmapped(address) in network for network in self._networks)

    def holds_socket(self, directory: str) -> bool:
        """Return whether the list has this directory of Unix sockets."""
        return directory.rstrip("/") in self._directories


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Rules for the hosts of one call.

    Attributes:
        allowed: The operator's list, outside which nothing is allowed; None without a list.
        is_confined: Whether callers may be untrusted by the operator; only effective without a
            list. Sources then reach only their own service, and loopback, link-local and metadata
            addresses of the machine are refused. Otherwise, everything is allowed.
        resolve: Resolves a name to addresses.
        is_of_interface: Returns whether an interface of the machine has an address.
    """

    allowed: AllowedHosts | None = None
    is_confined: bool = False
    resolve: Resolve = resolve_by_system
    is_of_interface: Callable[[Address], bool] = is_of_interface

    @property
    def is_open(self) -> bool:
        """Whether everything is allowed."""
        return self.allowed is None and not self.is_confined

    def confined(self) -> "Reach":
        """Return these rules, tightened for a caller that serves untrusted users."""
        return replace(self, is_confined=True)

    def check(self, host: str, *, own: Collection[str] = ()) -> Address | str:
        """Check a host without resolving its name.

        Args:
            host: The host as spelled in the configuration.
            own: Names of the connector's own service, and suffixes that begin with a dot. If
                confined, no other host is allowed; empty allows any name.

        Returns:
            The parsed address or the normalized name.

        Raises:
            HostRefused: The host is not allowed, regardless of its addresses.
        """
        try:
            parsed = parse_host(host)
        except ValueError:
            # The text may hold a secret, such as a URL with its password, so it is not repeated.
            raise HostRefused("the host is no host name or address") from None
        if self.allowed is not None:
            if not self._is_listed(parsed) and not (
                isinstance(parsed, str) and self.allowed.has_networks
            ):
                raise self._not_allowed(host)
        elif self.is_confined:
            if own and not (isinstance(parsed, str) and _is_of(parsed, own)):
                raise self._not_allowed(host)
            if isinstance(parsed, str):
                if parsed == "localhost" or parsed.endswith(".localhost"):
                    raise self._local_or_metadata(host)
            elif self._is_local_or_metadata(parsed):
                raise self._local_or_metadata(host)
        return parsed

    def check_name(self, host: str, *, own: Collection[str] = ()) -> None:
        """Check a host whose name a proxy resolves.

        Raises:
            HostRefused: The name, or the literal address, is not allowed.
        """
        parsed = self.check(host, own=own)
        if self.allowed is not None and not self._is_listed(parsed):
            raise self._not_allowed(host)

    def check_socket(self, directory: str) -> None:
        """Check the directory of a Unix socket.

        Raises:
            HostRefused: The directory is not allowed.
        """
        if self.allowed is not None and not self.allowed.holds_socket(directory):
            raise self._not_allowed(directory)
        if self.allowed is None and self.is_confined:
            raise HostRefused(
                f"{_shown(directory)} is a Unix socket of the engine's machine, which this engine "
                f"does not connect to: {_ASK}"
            )

    async def addresses(
        self, host: str, port: int, *, own: Collection[str] = ()
    ) -> Sequence[Address]:
        """Return the addresses of a host, all of them allowed.

        Connect to these addresses without resolving the name again: a second result may differ.

        Raises:
            HostRefused: The host, or one of its addresses, is not allowed.
            OSError: The host has no address.
        """
        parsed = self.check(host, own=own)
        if not isinstance(parsed, str):
            return [parsed]
        found = [
            unmapped(address)
            for text in await self.resolve(parsed, port)
            if not isinstance(address := parse_host(text), str)
        ]
        if not found:
            raise OSError(f"{_shown(host)} has no address")
        if not all(self.admits(address, parsed) for address in found):
            is_listed = self.allowed is None or self._is_listed(parsed)
            raise self._local_or_metadata(host) if is_listed else self._not_allowed(host)
        return found

    def admits(self, address: Address, name: str | None = None) -> bool:
        """Return whether an address may be connected to.

        Args:
            address: The address.
            name: The name that resolved to it, as ``check`` returns it; None for none.
        """
        if self.allowed is None:
            return not self.is_confined or not self._is_local_or_metadata(address)
        if self.allowed.holds(address) or (name is not None and self.allowed.names(name)):
            return True
        # The owner of a domain can make names below the suffix resolve to any address.
        is_below = name is not None and self.allowed.has_suffix_of(name)
        return is_below and not self._is_local_or_metadata(address)

    def knows(self, host: str, *, own: Collection[str] = ()) -> bool:
        """Return whether responses of a host may be shown to callers.

        They may for the connector's own service, for names in the operator's list, and, if
        everything is allowed, for the machine itself. Any other host may be an internal server
        that the caller cannot reach.
        """
        try:
            parsed = parse_host(host)
        except ValueError:
            return False
        if isinstance(parsed, str):
            is_listed = self.allowed is not None and self._is_listed(parsed)
            return is_listed or _is_of(parsed, own) or (self.is_open and parsed == "localhost")
        return self.is_open and parsed.is_loopback

    def _is_local_or_metadata(self, address: Address) -> bool:
        """Return whether an address belongs to the machine, its link or its cloud's metadata."""
        return is_local_or_metadata(address) or any(
            map(self.is_of_interface, with_embedded(unmapped(address)))
        )

    def _is_listed(self, host: Address | str) -> bool:
        if self.allowed is None:
            return False
        if isinstance(host, str):
            return self.allowed.names(host) or self.allowed.has_suffix_of(host)
        return self.allowed.holds(host)

    def _not_allowed(self, host: str) -> HostRefused:
        return HostRefused(f"{_shown(host)} is not among the hosts of this engine: {_ASK}")

    def _local_or_metadata(self, host: str) -> HostRefused:
        return HostRefused(
            f"{_shown(host)} leads to the engine's machine, its link or its cloud's metadata, "
            f"which this engine does not connect to: {_ASK}"
        )


OPEN = Reach()


def _is_of(name: str, own: Collection[str]) -> bool:
    return any(name == one or (one.startswith(".") and name.endswith(one)) for one in own)


def _shown(host: str) -> str:
    """Return the host for an error message: shortened, in ASCII, and without secrets."""
    return redact(ascii(host[:100])[1:-1])


def _host(entry: str) -> Address | str:
    try:
        return parse_host(entry)
    except ValueError:
        raise ValueError(
            f"{_shown(entry)} is no name (db.example.com), suffix (.example.com), network "
            "(10.0.0.0/8), or directory of a Unix socket (/run/postgresql)"
        ) from None


def _name(text: str, entry: str) -> str:
    host = _host(text)
    if not isinstance(host, str):
        raise ValueError(f"{_shown(entry)} is no suffix of names, such as .example.com")  # noqa: TRY004 - a setting's value
    return host


def _network(entry: str) -> Network:
    try:
        network = ip_network(entry)
    except ValueError as error:
        raise ValueError(f"{_shown(entry)} is no network: {error}") from None
    mapped = unmapped(network.network_address)
    if mapped.version == 4 and network.version == 6 and network.prefixlen >= 96:
        return ip_network((mapped, network.prefixlen - 96))
    return network
