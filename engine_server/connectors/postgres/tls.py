"""Over what TLS Postgres is spoken to: as the configuration says, whatever the environment says.

The driver would show a server of the pipeline's choice the certificate that it finds in the home
directory of whoever runs the engine.
"""

import ssl
from typing import Literal

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.errors import ConnectionFailed

Tls = ssl.SSLContext | Literal[False]

_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


def tls_attempts(config: PostgresConfig) -> list[Tls]:
    """How to connect: in this way or else in the next, False being without TLS.

    https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-PROTECTION

    Raises:
        ConnectionFailed: A certificate or a key cannot be read.
    """
    match config.effective_ssl_mode:
        case "disable":
            return [False]
        case "allow":
            return [False, _context(config)]
        case "prefer":
            return [_context(config), False]
        case _:
            return [_context(config)]


def _context(config: PostgresConfig) -> ssl.SSLContext:
    said = config.url_parameters
    # Not create_default_context(): from Python 3.13 on it asks more of a private authority's
    # certificates than libpq does.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # https://www.postgresql.org/docs/current/protocol-flow.html, "Direct SSL"
    context.set_alpn_protocols(["postgresql"])
    if "ssl_min_protocol_version" in said:
        context.minimum_version = _VERSIONS[said["ssl_min_protocol_version"]]
    if "ssl_max_protocol_version" in said:
        context.maximum_version = _VERSIONS[said["ssl_max_protocol_version"]]
    try:
        _trust(context, config)
        if "sslcert" in said:
            # Without a function, OpenSSL would ask for the password at the engine's terminal.
            context.load_cert_chain(
                said["sslcert"], said.get("sslkey"), password=lambda: said.get("sslpassword", "")
            )
    except OSError as error:
        raise ConnectionFailed(
            f"sslrootcert, sslcert or sslkey in the Postgres url cannot be read: {error}"
        ) from error
    return context


def _trust(context: ssl.SSLContext, config: PostgresConfig) -> None:
    mode = config.effective_ssl_mode
    authorities = config.url_parameters.get("sslrootcert", "system")
    context.check_hostname = mode == "verify-full"
    if not mode.startswith("verify-"):
        context.verify_mode = ssl.CERT_NONE
    elif config.ssl_ca_pem is not None:
        context.load_verify_locations(cadata=config.ssl_ca_pem)
    elif authorities == "system":
        context.load_default_certs()
    else:
        context.load_verify_locations(cafile=authorities)
