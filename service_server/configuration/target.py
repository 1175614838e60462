"""Target of a connector's configuration: the place that it leads to, by its JSON Schema.

The keyword ``x-pipesync-target`` says that a property names a part of the target. Its value is an
object with

- ``part``: ``host``, ``port``, ``path`` (e.g. a database), or a name of the connector's own; or
  ``url`` for a URL, which names a host, a port and a path;
- ``default``: the part's value if no property names it.

The part ``user`` replaces a missing ``path``, because the default database in Postgres has the name
of the user.
"""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from google.protobuf.json_format import MessageToDict

from pipesync.v1.catalog_pb2 import Connector, Spec

_KEYWORD = "x-pipesync-target"
_DEFAULT_PORTS = {"http": "80", "https": "443", "postgres": "5432", "postgresql": "5432"}
# Parameters in the query of a Postgres URL that name these parts.
_IN_QUERY = {"host": "host", "hostaddr": "host", "port": "port", "dbname": "path", "user": "user"}
_THIS_MACHINE = {"127.0.0.1", "::1", "[::1]"}


def target_of(connector: Connector, spec: Spec) -> Mapping[str, str]:
    """Return the parts of the target of a configuration with its secrets."""
    config = MessageToDict(connector.config)
    properties = MessageToDict(spec.config_schema).get("properties", {})
    parts: dict[str, str] = {}
    defaults: dict[str, str] = {}
    for name, schema in properties.items():
        keyword = schema.get(_KEYWORD)
        if keyword is None:
            continue
        part, value = keyword["part"], config.get(name)
        if "default" in keyword:
            # The default is of the part, which another property, e.g. a URL, may name.
            defaults[part] = str(keyword["default"])
        elif name not in config:
            value = schema.get("default")
        if value is None:
            continue
        named = _parts_of_url(str(value)) if part == "url" else [(part, _text(value))]
        parts.update({part: _normalized(part, value) for part, value in named if value})
    parts = defaults | parts
    user = parts.pop("user", None)
    if user is not None:
        parts.setdefault("path", user)
    return parts


def _parts_of_url(url: str) -> Iterator[tuple[str, str]]:
    try:
        split = urlsplit(url)
    except ValueError:
        yield "host", url
        return
    user, _, addresses = split.netloc.rpartition("@")
    yield "user", unquote(user.partition(":")[0])
    yield "port", _DEFAULT_PORTS.get(split.scheme, "")
    pairs = [_host_and_port(address) for address in addresses.split(",")]
    yield "host", ",".join(unquote(host) for host, _ in pairs)
    if any(port for _, port in pairs):
        default = _DEFAULT_PORTS.get(split.scheme, "")
        yield "port", ",".join(port or default for _, port in pairs)
    yield "path", unquote(split.path.strip("/"))
    if split.scheme in ("postgres", "postgresql"):
        for name, values in parse_qs(split.query).items():
            if name in _IN_QUERY:
                yield _IN_QUERY[name], values[-1]


def _host_and_port(address: str) -> tuple[str, str]:
    host, colon, port = address.rpartition(":")
    # The colons of an IPv6 address are in brackets.
    return (host, port) if colon and not port.endswith("]") else (address, "")


def _text(value: Any) -> str:
    # All numbers of a Struct are floats.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _normalized(part: str, value: str) -> str:
    if part != "host":
        return value
    hosts = (host.lower() for host in value.split(","))
    return ",".join("localhost" if host in _THIS_MACHINE else host for host in hosts)
