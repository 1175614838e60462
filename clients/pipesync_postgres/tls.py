"""TLS to Postgres, configured by the URL alone.

The driver would otherwise look for certificates in the home directory of the process's user.
"""

import ssl
from collections.abc import Mapping

from pipesync_postgres.parameters import SslMode

_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


class _PinnedContext(ssl.SSLContext):
    """Requests the certificate of a name when the driver only knows the name's address."""

    server_name: str

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin the handshake for the name; called by event loops."""
        return super().wrap_bio(
            incoming,
            outgoing,
            server_side=server_side,
            server_hostname=self.server_name,
            session=session,
        )


def tls_context(
    mode: SslMode,
    parameters: Mapping[str, str],
    *,
    authority_pem: str | None = None,
    server_name: str | None = None,
) -> ssl.SSLContext:
    """Return the context for a mode with TLS.

    Args:
        mode: Mode that determines the verification.
        parameters: The parameters of the URL.
        authority_pem: Certificates of the trusted authorities, instead of ``sslrootcert``.
        server_name: The server's name if the driver is given its address; None if it is given the
            name.

    Raises:
        OSError: A certificate or a key cannot be read.
    """
    # Not create_default_context(): from Python 3.13 on it is stricter than libpq about a private
    # authority's certificates.
    context: ssl.SSLContext
    if server_name is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    else:
        context = _PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
        context.server_name = server_name
    # https://www.postgresql.org/docs/current/protocol-flow.html, "Direct SSL"
    context.set_alpn_protocols(["postgresql"])
    if "ssl_min_protocol_version" in parameters:
        context.minimum_version = _VERSIONS[parameters["ssl_min_protocol_version"]]
    if "ssl_max_protocol_version" in parameters:
        context.maximum_version = _VERSIONS[parameters["ssl_max_protocol_version"]]
    _trust(context, mode, parameters, authority_pem)
    if "sslcert" in parameters:
        # Without a function, OpenSSL would prompt for the password on the server's terminal.
        context.load_cert_chain(
            parameters["sslcert"],
            parameters.get("sslkey"),
            password=lambda: parameters.get("sslpassword", ""),
        )
    return context


def _trust(
    context: ssl.SSLContext, mode: SslMode, parameters: Mapping[str, str], authority_pem: str | None
) -> None:
    authorities = parameters.get("sslrootcert", "system")
    context.check_hostname = mode == "verify-full"
    if not mode.startswith("verify-"):
        context.verify_mode = ssl.CERT_NONE
    elif authority_pem is not None:
        context.load_verify_locations(cadata=authority_pem)
    elif authorities == "system":
        context.load_default_certs()
    else:
        context.load_verify_locations(cafile=authorities)
