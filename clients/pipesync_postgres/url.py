"""Parser of Postgres connection URLs, compatible with libpq.

https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import unquote

NOT_UNDERSTOOD = "cannot be understood: special characters in its password must be percent-encoded"

DEFAULT_PORT = 5432
# Limits of characters and of servers: far above those of any cluster.
MOST_URL = 8192
MAX_HOSTS = 100
_SCHEMES = ("postgresql://", "postgres://")
# Before the first "/", as in libpq: a later "@" belongs to a database or a parameter. Where libpq
# fails because an "@" is not encoded, the last "@" ends the password.
_CREDENTIALS = re.compile(r"(?P<user>[^:/]*?)(?::(?P<password>[^/]*))?@(?=[^@/]*(?:/|$))")
_ADDRESS = frozenset({"host", "port", "dbname", "database", "user", "password"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One of the servers in a URL.

    Attributes:
        name: Its name or address, or the directory of its Unix socket.
        port: Its port, which is also part of a socket's name.
    """

    name: str
    port: int = DEFAULT_PORT

    @property
    def is_socket(self) -> bool:
        """Whether it is reached through a Unix socket."""
        return self.name.startswith("/")

    @property
    def is_local(self) -> bool:
        """Whether connections to it stay on this machine."""
        if self.is_socket or self.name.lower() == "localhost":
            return True
        try:
            return ip_address(self.name).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresUrl:
    """The parts of a connection URL, percent-decoded.

    Attributes:
        hosts: The servers, in the order of the attempts; empty if none is named.
        user: The role; empty if none is named.
        password: The password; empty if none is given.
        database: The database; empty if none is named.
        parameters: The other parameters, without empty ones; the last one of a repeated name.
    """

    hosts: tuple[Host, ...]
    user: str
    password: str = field(repr=False)
    database: str
    parameters: Mapping[str, str] = field(repr=False)


def is_postgres(url: str) -> bool:
    """Return whether a URL has a scheme of Postgres."""
    return url.lower().startswith(_SCHEMES)


def parse_url(url: str) -> PostgresUrl:
    """Parse a URL; as in libpq, a parameter overrides the part before the question mark.

    Raises:
        ValueError: The URL is invalid. The message holds no part of it.
    """
    if len(url) > MOST_URL:
        raise ValueError(f"has {len(url)} characters: at most {MOST_URL} are taken")
    url = url.strip()
    if not is_postgres(url):
        raise ValueError("must begin with postgresql://")
    rest = url.partition("://")[2]
    credentials = _CREDENTIALS.match(rest)
    if credentials is not None:
        rest = rest[credentials.end() :]
    before, _, query = rest.partition("?")
    authority, _, database = before.partition("/")
    if "@" in database:
        # Most likely the end of a password with a "/": libpq would take parts of it for a host, a
        # port and a database, and messages would reveal them.
        raise ValueError(NOT_UNDERSTOOD)
    parameters = _parameters(query)
    user, password = credentials.group("user", "password") if credentials else ("", "")
    return PostgresUrl(
        hosts=_hosts(authority, parameters),
        user=parameters.get("user") or _decode(user),
        password=parameters.get("password") or _decode(password or ""),
        database=parameters.get("dbname") or parameters.get("database") or _decode(database),
        parameters={name: value for name, value in parameters.items() if name not in _ADDRESS},
    )


def _parameters(query: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        name, value = _decode(name), _decode(value)
        if (name, value) == ("ssl", "true"):
            # Form of JDBC.
            name, value = "sslmode", "require"
        found[name] = value
    return {name: value for name, value in found.items() if value}


def _hosts(authority: str, parameters: Mapping[str, str]) -> tuple[Host, ...]:
    pairs = [_host_and_port(part) for part in authority.split(",")] if authority else []
    names, ports = [name for name, _ in pairs], [port for _, port in pairs]
    if "host" in parameters:
        names = parameters["host"].split(",")
        # The ports of the part before the question mark are kept.
        ports = _for_each(ports if any(ports) else [""], names)
        for place, name in enumerate(names):
            # Not in libpq, but in other drivers' URLs.
            if found := re.fullmatch(r"([^:/]+):(\d+)", name):
                names[place], ports[place] = found.groups()
    if "port" in parameters:
        ports = _for_each(parameters["port"].split(","), names)
    if len(names) > MAX_HOSTS:
        raise ValueError(f"names {len(names)} hosts: at most {MAX_HOSTS} are taken")
    if not all(names):
        if len(names) > 1:
            raise ValueError("has an empty host name")
        return ()
    return tuple(Host(name=name, port=_port(port)) for name, port in zip(names, ports, strict=True))


def _for_each(ports: list[str], names: Sequence[str]) -> list[str]:
    if len(ports) not in {1, len(names) or 1}:
        raise ValueError(f"names {len(ports)} ports for {len(names)} hosts")
    return ports * len(names) if len(ports) == 1 else ports


def _host_and_port(text: str) -> tuple[str, str]:
    found = re.fullmatch(r"\[([^\]]+)\](?::(.*))?", text)
    if found is not None:
        name, port = found.group(1), found.group(2) or ""
    else:
        name, _, port = text.partition(":")
    name, port = _decode(name), _decode(port)
    if "[" in name:
        raise ValueError(NOT_UNDERSTOOD)
    return name, port


def _port(text: str) -> int:
    if not text:
        return DEFAULT_PORT
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise ValueError(NOT_UNDERSTOOD)
    return int(text)


def _decode(text: str) -> str:
    try:
        # Not unquote_plus(): a "+" is a plus sign.
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError(NOT_UNDERSTOOD) from None
    if "\0" in decoded:
        raise ValueError(NOT_UNDERSTOOD)
    return decoded
