"""Parsing of hosts in configurations, and classification of IP addresses."""

import re
import socket
import unicodedata
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address

# Spellings that inet_aton() of the C library accepts: 127.1, 0177.0.0.1, 0x7f000001, 2130706433.
_NUMERIC = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+)){0,3}")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_MAX_CHARACTERS = 253

# Prefixes of addresses that embed an IPv4 address in the last four bytes: translation (RFC 6052,
# 8215 and 2765), and the form that RFC 4291 deprecated.
_EMBEDDING = (
    IPv6Network("64:ff9b::/96"),
    IPv6Network("64:ff9b:1::/48"),
    IPv6Network("::ffff:0:0:0/96"),
    IPv6Network("::/96"),
)
# An interface identifier of RFC 5214.
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})

# Metadata services of clouds, which hand out credentials. Most addresses are link-local as well.
_METADATA = tuple(
    map(
        ip_network,
        (
            "169.254.169.254/32",
            "fd00:ec2::/32",  # Amazon: instance metadata, EKS Pod Identity
            "fd20:ce::254/128",  # Google
            "100.100.100.200/32",  # Alibaba
            "168.63.129.16/32",  # Azure
            "192.0.0.192/32",  # Oracle
        ),
    )
)
_DISCARD_PORT = 9
_THIS_NETWORK = ip_network("0.0.0.0/8")


def parse_host(text: str) -> Address | str:
    """Return the address that ``text`` spells, or else the normalized host name.

    Spellings that some resolver treats as an address are parsed as that address: numbers with fewer
    than four parts, octal and hexadecimal numbers, digits of other scripts, and IPv4-mapped IPv6.

    Raises:
        ValueError: The text is neither an address nor a host name.
    """
    # Checked first, because normalizing a text takes quadratic time.
    if len(text) > _MAX_CHARACTERS + 1:
        raise ValueError("is no host name")
    host = unicodedata.normalize("NFKC", text).lower()
    host = host.replace("\u3002", ".").removesuffix(".")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if ":" in host:
        # The zone after the percent sign names an interface of this machine.
        return unmapped(ip_address(host.partition("%")[0]))
    if _NUMERIC.fullmatch(host):
        try:
            return IPv4Address(socket.inet_aton(host))
        except OSError:
            raise ValueError("is no address") from None
    if not host.isascii():
        try:
            host = host.encode("idna").decode()
        except UnicodeError:
            raise ValueError("is no host name") from None
    # No top-level domain is a number, so some resolver may parse this as an address.
    is_number = host.rpartition(".")[2].isdigit()
    if len(host) > _MAX_CHARACTERS or is_number or not _NAME.fullmatch(host):
        raise ValueError("is no host name")
    return host


def unmapped(address: Address) -> Address:
    """Return the IPv4 address of an IPv4-mapped IPv6 address; any other address as it is."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def is_local_or_metadata(address: Address) -> bool:
    """Return whether ``address``, or one it embeds, may be the machine, its link or its cloud.

    These are loopback, unspecified, link-local, multicast, reserved and metadata addresses. Private
    addresses do not count, because databases often have them.
    """
    return any(map(_is_local_or_metadata, with_embedded(unmapped(address))))


def is_of_interface(address: Address) -> bool:
    """Return whether an interface of this machine has ``address``.

    The test only creates sockets: no packet is sent, and the second socket is used only if the
    first shows that the address may be local.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as bound:
            bound.bind((str(address), 0))
        # With ip_nonlocal_bind, the kernel lets a socket bind any address, but still selects only
        # one of the machine's own addresses as the source of a connection.
        with socket.socket(family, socket.SOCK_DGRAM) as connected:
            connected.connect((str(address), _DISCARD_PORT))
            return ip_address(connected.getsockname()[0]) == address
    except OSError:
        return False


def _is_local_or_metadata(address: Address) -> bool:
    return (
        address.is_loopback
        or address.is_unspecified
        or address.is_link_local
        or address.is_multicast
        or (address.version == 4 and address.is_reserved)
        or address in _THIS_NETWORK
        or any(address in network for network in _METADATA)
    )


def with_embedded(address: Address) -> Iterator[Address]:
    """Yield the address, and each IPv4 address that a gateway may translate it to."""
    yield address
    if isinstance(address, IPv4Address):
        return
    last = IPv4Address(int(address) & 0xFFFFFFFF)
    if any(address in network for network in _EMBEDDING):
        yield last
    if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        yield last
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
