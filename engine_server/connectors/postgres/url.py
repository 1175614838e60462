"""What a connection URL says, and which of libpq's parameters we can do justice to.

https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
"""

from collections.abc import Mapping
from typing import Literal, get_args
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

NOT_UNDERSTOOD = "cannot be understood: special characters in its password must be percent-encoded"

# https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-SSLMODE-STATEMENTS
SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]

_ADDRESS = frozenset({"host", "port", "dbname", "database", "user"})
_NAMES = frozenset({"application_name", "fallback_application_name", "options"})
# Files, but for a certificate authority that is called "system".
FILES = ("sslrootcert", "sslcert", "sslkey")
_VALUES: Mapping[str, tuple[str, ...]] = {
    "sslmode": get_args(SslMode),
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": ("TLSv1.2", "TLSv1.3"),
    "ssl_max_protocol_version": ("TLSv1.2", "TLSv1.3"),
    "channel_binding": ("disable", "prefer", "require"),
    "target_session_attrs": (
        "any",
        "read-write",
        "read-only",
        "primary",
        "standby",
        "prefer-standby",
    ),
    "gssencmode": ("disable", "prefer"),
}
_KNOWN = _ADDRESS | _NAMES | {*FILES, "password", "sslpassword", "connect_timeout", *_VALUES}
# Those that change nothing for us: who is silent is told by other means, text is always UTF-8, no
# statement has a name. The last ones are what providers tell other clients.
_HARMLESS = frozenset(
    {
        "client_encoding",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "sslcompression",
        "sslsni",
        "tcp_user_timeout",
        "connection_limit",
        "pgbouncer",
        "pool_timeout",
        "prepareThreshold",
        "statement_cache_size",
        "supa",
        "uselibpqcompat",
        "workaround",
    }
)
_REMEDIES: Mapping[str, str] = {
    "passfile": "give password or password_file",
    "require_auth": "take it out, and say sslmode=verify-full to be sure of the server",
    "schema": "give it in the field schema",
    "service": "give host, database, user and password themselves",
    "servicefile": "give host, database, user and password themselves",
    "ssl": "say sslmode=require or sslmode=verify-full",
    "sslaccept": "say sslmode=require or sslmode=verify-full",
}


def check_parameters(url: str) -> None:
    """Refuses what follows the question mark of ``url`` where it would not be honoured.

    Raises:
        ValueError: It names the parameter and the remedy, and never a value.
    """
    for name, value in parameters(url).items():
        if name not in _KNOWN | _HARMLESS:
            remedy = _REMEDIES.get(
                name, "take it out; a setting of the session goes into options=-c name=value"
            )
            raise ValueError(f"{name} is not supported: {remedy}")
        if name in _VALUES and value not in _VALUES[name]:
            raise ValueError(f"{name} must be one of {', '.join(_VALUES[name])}")
        if name == "connect_timeout" and not (value.isascii() and value.isdigit()):
            raise ValueError("connect_timeout must be a whole number of seconds")


def parameters(url: str) -> Mapping[str, str]:
    """What ``url`` says after its question mark; of several the last, and none that is empty.

    Raises:
        ValueError: It cannot be understood.
    """
    return dict(parse_qsl(_split(url).query))


def address(url: str) -> str:
    """Of ``url`` what says where to and as whom, but not the password, nor how to connect."""
    parts = _split(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    user = quote(unquote(credentials.partition(":")[0]), safe="")
    where = {name: value for name, value in parameters(url).items() if name in _ADDRESS}
    query = urlencode(where, quote_via=quote)
    return parts._replace(netloc=f"{user}{at}{hosts}", query=query).geturl()


def password_in(url: str) -> str:
    """The password that ``url`` holds; empty when it holds none."""
    credentials = _split(url).netloc.rpartition("@")[0]
    return unquote(credentials.partition(":")[2]) or parameters(url).get("password", "")


def has_several_hosts(url: str) -> bool:
    """Whether ``url`` names more than one host, of which one at a time takes writes."""
    return "," in _split(url).netloc.rpartition("@")[2] or "," in parameters(url).get("host", "")


def is_postgres(url: str) -> bool:
    """Whether ``url`` begins as one of Postgres does."""
    return _split(url).scheme in {"postgresql", "postgres"}


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:
        # The text may quote a piece of the password, so it is left out.
        raise ValueError(NOT_UNDERSTOOD) from None
    if parts.fragment:
        raise ValueError(NOT_UNDERSTOOD)
    return parts
