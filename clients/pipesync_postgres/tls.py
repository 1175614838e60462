"""TLS to a Postgres, as its URL and nothing else says.

The driver would look for certificates in the home directory of the process's user otherwise.
"""

import ssl
from collections.abc import Mapping

from pipesync_postgres.parameters import SslMode

_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


def tls_context(
    mode: SslMode, said: Mapping[str, str], *, authority_pem: str | None = None
) -> ssl.SSLContext:
    """Make the context for a mode with TLS.

    Args:
        mode: What is verified.
        said: The parameters of the URL.
        authority_pem: Certificates of the authorities to trust, in place of ``sslrootcert``.

    Raises:
        OSError: A certificate or a key cannot be read.
    """
    # Not create_default_context(): from Python 3.13 on it asks more of a private authority's
    # certificates than libpq does.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # https://www.postgresql.org/docs/current/protocol-flow.html, "Direct SSL"
    context.set_alpn_protocols(["postgresql"])
    if "ssl_min_protocol_version" in said:
        context.minimum_version = _VERSIONS[said["ssl_min_protocol_version"]]
    if "ssl_max_protocol_version" in said:
        context.maximum_version = _VERSIONS[said["ssl_max_protocol_version"]]
    _trust(context, mode, said, authority_pem)
    if "sslcert" in said:
        # Without a function, OpenSSL would ask for the password at the server's terminal.
        context.load_cert_chain(
            said["sslcert"], said.get("sslkey"), password=lambda: said.get("sslpassword", "")
        )
    return context


def _trust(
    context: ssl.SSLContext, mode: SslMode, said: Mapping[str, str], authority_pem: str | None
) -> None:
    authorities = said.get("sslrootcert", "system")
    context.check_hostname = mode == "verify-full"
    if not mode.startswith("verify-"):
        context.verify_mode = ssl.CERT_NONE
    elif authority_pem is not None:
        context.load_verify_locations(cadata=authority_pem)
    elif authorities == "system":
        context.load_default_certs()
    else:
        context.load_verify_locations(cafile=authorities)
