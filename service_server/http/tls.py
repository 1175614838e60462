"""TLS of the HTTP server."""

import ssl

from pipesync_rpc.credentials import CertificateWatch, ServerTls


def ssl_context(tls: ServerTls) -> ssl.SSLContext:
    """Return the context of new connections, which reloads the files when they change."""
    watch, newest = CertificateWatch(tls), _plain_ssl_context(tls)

    def use_newest(connection: ssl.SSLObject, _name: str | None, _first: ssl.SSLContext) -> None:
        nonlocal newest
        if watch.has_changed():
            newest = _plain_ssl_context(tls)
        connection.context = newest

    context = _plain_ssl_context(tls)
    context.sni_callback = use_newest
    return context


def _plain_ssl_context(tls: ServerTls) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tls.certificate, tls.private_key)
    if tls.client_ca is not None:
        context.load_verify_locations(tls.client_ca)
        # Stripe presents no certificate; only /metrics requires one.
        context.verify_mode = ssl.CERT_OPTIONAL
    return context
