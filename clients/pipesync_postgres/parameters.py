"""Parameters of connection URLs that are honoured, ignored, or refused.

https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
"""

from collections.abc import Mapping
from typing import Literal, get_args

from pipesync_postgres.url import PostgresUrl

# https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-SSLMODE-STATEMENTS
SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]

# Paths of files, except for the certificate authority "system".
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
# These have no effect here: silent connections are detected by other means, text is always UTF-8,
# and statements have no names. The last ones are added by providers for other clients.
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


def check_parameters(
    parameters: Mapping[str, str], *, further: frozenset[str] = frozenset()
) -> None:
    """Refuse a parameter that would not be honoured.

    Args:
        parameters: The parameters.
        further: Additional names that the caller honours.

    Raises:
        ValueError: A parameter is refused. The message gives its name and the remedy, but no value.
    """
    for name, value in parameters.items():
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
    """Return the name, unless it may be part of a password that is not encoded."""
    is_name = name.isascii() and name.replace("_", "").isalpha() and len(name) <= 30
    return name if is_name else "a parameter of it"


def effective_ssl_mode(
    mode: SslMode | None, parameters: Mapping[str, str], *, has_own_authority: bool = False
) -> SslMode:
    """Return the mode that results from all TLS settings.

    The driver lacks SCRAM-SHA-256-PLUS. A verified certificate protects against a man in the
    middle, as channel binding does, so it satisfies ``channel_binding=require``.

    Args:
        mode: The chosen mode; None for the default.
        parameters: The parameters of the URL.
        has_own_authority: Whether a certificate of an authority was given in addition to the URL.

    Raises:
        ValueError: ``channel_binding=require`` cannot be satisfied.
    """
    resolved = _resolved_mode(mode, parameters, has_own_authority=has_own_authority)
    if parameters.get("channel_binding") != "require":
        return resolved
    if resolved in {"disable", "allow"}:
        raise ValueError(
            f"channel_binding=require needs TLS, and sslmode={resolved} is without: say "
            "sslmode=verify-full, or take channel_binding out"
        )
    # A certificate of a public authority proves nothing without the host's name.
    is_private = has_own_authority or parameters.get("sslrootcert", "system") != "system"
    return "verify-ca" if resolved == "verify-ca" and is_private else "verify-full"


def check_transport(url: PostgresUrl, mode: SslMode) -> None:
    """Refuse a URL whose transport cannot provide a required protection.

    Raises:
        ValueError: ``channel_binding`` or ``sslnegotiation`` cannot be satisfied.
    """
    parameters = url.parameters
    is_tcp = bool(url.hosts) and not any(host.is_socket for host in url.hosts)
    if parameters.get("channel_binding") == "require" and not is_tcp:
        raise ValueError(
            "channel_binding=require needs TLS, which a Unix socket is without: take it out"
        )
    if parameters.get("sslnegotiation") == "direct" and mode in {"disable", "allow", "prefer"}:
        raise ValueError("sslnegotiation=direct needs sslmode=require or stricter")


def _resolved_mode(
    mode: SslMode | None, parameters: Mapping[str, str], *, has_own_authority: bool
) -> SslMode:
    if mode in {"verify-ca", "verify-full"}:
        return mode
    if has_own_authority:
        return "verify-full"
    authorities = parameters.get("sslrootcert")
    # As in libpq, naming an authority requests verification.
    if authorities == "system" and mode in {None, "require"}:
        return "verify-full"
    if authorities is not None and mode == "require":
        return "verify-ca"
    return mode or "prefer"
