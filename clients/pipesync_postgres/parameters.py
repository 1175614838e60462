"""Which parameters of a connection URL are honoured, ignored, or refused.

https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
"""

from collections.abc import Mapping
from typing import Literal, get_args

from pipesync_postgres.url import PostgresUrl

# https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-SSLMODE-STATEMENTS
SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]

# Files, but for a certificate authority that is called "system".
FILES = ("sslrootcert", "sslcert", "sslkey")
_NAMES = frozenset({"application_name", "fallback_application_name", "options", "sslpassword"})
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
_KNOWN = _NAMES | {*FILES, "connect_timeout", *_VALUES}
# These change nothing here: silence is noticed by other means, text is always UTF-8, no statement
# has a name. The last ones are meant for other clients by providers.
_HARMLESS = frozenset(
    {
        "client_encoding",
        "gssdelegation",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "max_protocol_version",
        "min_protocol_version",
        "sslcertmode",
        "sslcompression",
        "sslsni",
        "tcp_user_timeout",
        "connection_limit",
        "pgbouncer",
        "pool_timeout",
        "prepareThreshold",
        "prepared_statements",
        "statement_cache_size",
        "supa",
        "uselibpqcompat",
        "workaround",
    }
)
_REMEDIES: Mapping[str, str] = {
    "hostaddr": "give the address as host",
    "passfile": "give password or password_file",
    "require_auth": "take it out, and say sslmode=verify-full to be sure of the server",
    "schema": "give it in the field schema",
    "service": "give host, database, user and password themselves",
    "servicefile": "give host, database, user and password themselves",
    "ssl": "say sslmode=require or sslmode=verify-full",
    "sslaccept": "say sslmode=require or sslmode=verify-full",
}


def check_parameters(said: Mapping[str, str], *, further: frozenset[str] = frozenset()) -> None:
    """Refuse a parameter that would not be honoured.

    Args:
        said: The parameters.
        further: More names that the caller honours.

    Raises:
        ValueError: It names the parameter and the remedy, and never a value.
    """
    for name, value in said.items():
        if name not in _KNOWN | _HARMLESS | further:
            remedy = _REMEDIES.get(
                name, "take it out; a setting of the session goes into options=-c name=value"
            )
            raise ValueError(f"{_shown(name)} is not supported: {remedy}")
        if name in _VALUES and value not in _VALUES[name]:
            raise ValueError(f"{name} must be one of {', '.join(_VALUES[name])}")
        if name == "connect_timeout" and not (value.isascii() and value.isdigit()):
            raise ValueError("connect_timeout must be a whole number of seconds")


def _shown(name: str) -> str:
    """The name, unless it may be a piece of a password that is not encoded."""
    is_name = name.isascii() and name.replace("_", "").isalpha() and len(name) <= 30
    return name if is_name else "a parameter of it"


def effective_ssl_mode(
    mode: SslMode | None, said: Mapping[str, str], *, has_own_authority: bool = False
) -> SslMode:
    """Return the mode that all that is said of TLS amounts to.

    The driver has no SCRAM-SHA-256-PLUS. What channel binding guards against, a man in the middle,
    a verified certificate guards against, too: ``channel_binding=require`` is met by it.

    Args:
        mode: As it was chosen; None where nothing was.
        said: The parameters of the URL.
        has_own_authority: Whether a certificate of an authority was given beside the URL.

    Raises:
        ValueError: ``channel_binding=require`` cannot be met.
    """
    resolved = _resolved_mode(mode, said, has_own_authority=has_own_authority)
    if said.get("channel_binding") != "require":
        return resolved
    if resolved in {"disable", "allow"}:
        raise ValueError(
            f"channel_binding=require needs TLS, and sslmode={resolved} is without: say "
            "sslmode=verify-full, or take channel_binding out"
        )
    # A certificate of an authority that everybody trusts says nothing without the host's name.
    is_private = has_own_authority or said.get("sslrootcert", "system") != "system"
    return "verify-ca" if resolved == "verify-ca" and is_private else "verify-full"


def check_transport(url: PostgresUrl, mode: SslMode) -> None:
    """Refuse a URL that asks for more than its way to the server can give.

    Raises:
        ValueError: ``channel_binding`` or ``sslnegotiation`` cannot be met.
    """
    said = url.parameters
    is_tcp = bool(url.hosts) and not any(host.is_socket for host in url.hosts)
    if said.get("channel_binding") == "require" and not is_tcp:
        raise ValueError(
            "channel_binding=require needs TLS, which a Unix socket is without: take it out"
        )
    if said.get("sslnegotiation") == "direct" and mode in {"disable", "allow", "prefer"}:
        raise ValueError("sslnegotiation=direct needs sslmode=require or stricter")


def _resolved_mode(
    mode: SslMode | None, said: Mapping[str, str], *, has_own_authority: bool
) -> SslMode:
    if mode in {"verify-ca", "verify-full"}:
        return mode
    if has_own_authority:
        return "verify-full"
    authorities = said.get("sslrootcert")
    # As in libpq, who names an authority wants it looked at.
    if authorities == "system" and mode in {None, "require"}:
        return "verify-full"
    if authorities is not None and mode == "require":
        return "verify-ca"
    return mode or "prefer"
