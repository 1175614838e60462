"""Channels: the client's end of a connection."""

import json
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

import grpc

from pipesync_rpc.client_interceptor import (
    CallMetadata,
    no_further_metadata,
    outgoing_interceptors,
)
from pipesync_rpc.credentials import ClientTls, is_loopback
from pipesync_rpc.limits import SIZE_OPTIONS

# By default gRPC uses the proxy of http_proxy, https_proxy or grpc_proxy, even for loopback, and
# applies no_proxy to one address only:
# https://grpc.github.io/grpc/core/md_doc_environment_variables.html
DIRECT = ("grpc.enable_http_proxy", 0)

_OPTIONS = (
    *SIZE_OPTIONS,
    # The option above does not turn off the proxy of GRPC_ADDRESS_HTTP_PROXY.
    ("grpc.address_http_proxy_enabled_addresses", ""),
    # Detects a dead server within 30 s while a call waits for it.
    ("grpc.keepalive_time_ms", 20_000),
    # grpcio 1.85 uses this option instead of keepalive_timeout_ms; its default is a minute.
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Reconnects soon after a restart: the default back-off of gRPC grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


class CannotOpenChannel(ValueError):
    """The channel cannot be opened with these arguments; the message gives the remedy."""


class UnusableProxy(CannotOpenChannel):
    """The proxy is not valid, or cannot reach the target."""


class InsecureToken(CannotOpenChannel):
    """The channel would send a token over a network in plain text."""


def open_channel(
    target: str,
    *,
    tls: ClientTls | None = None,
    token: str | None = None,
    idempotent_methods: Iterable[str] = (),
    proxy: str | None = None,
    metadata: CallMetadata = no_further_metadata,
) -> grpc.aio.Channel:
    """Open a channel whose calls carry identifiers and the token.

    The channel connects at its first call. The caller closes it.

    Args:
        target: ``host:port``, ``dns:///host:port`` (uses its addresses in turn) or ``unix:/path``.
        tls: TLS settings; None for plain text.
        token: Bearer token; None for a server that requires none.
        idempotent_methods: ``/package.Service/Method`` each. A call to one of them is retried up to
            three times when the server answers UNAVAILABLE or CANCELLED, and when it answers
            RESOURCE_EXHAUSTED, after the delay that the server gives.
        proxy: HTTP proxy that connects to the target with CONNECT: ``http://host:port``, with
            ``user:password@`` if it requires them. None connects directly, regardless of the
            environment.
        metadata: Returns additional metadata for each call.

    Raises:
        UnusableProxy: The proxy's address is not valid, or the target is not a single host.
        InsecureToken: There is a token, but no TLS and no loopback target.
        OSError: A PEM file cannot be read.
    """
    way = DIRECT if proxy is None else ("grpc.http_proxy", _proxy(proxy, target))
    options = (*_OPTIONS, way, ("grpc.service_config", _service_config(idempotent_methods)))
    interceptors = outgoing_interceptors(token, metadata)
    if tls is not None:
        return grpc.aio.secure_channel(
            target, tls.credentials(), options=options, interceptors=interceptors
        )
    if token and not is_loopback(target):
        raise InsecureToken(
            f"the token would be sent to {target} in plain text: use TLS, or omit the token"
        )
    return grpc.aio.insecure_channel(target, options=options, interceptors=interceptors)


def _proxy(proxy: str, target: str) -> str:
    try:
        parts = urlsplit(proxy)
        is_usable = parts.scheme == "http" and parts.hostname and parts.port
    except ValueError:
        is_usable = False
    if not is_usable or parts.path.strip("/") or parts.query:
        # The URL may hold a password, so the message does not quote it.
        raise UnusableProxy("the proxy must be http://host:port, or http://user:password@host:port")
    if re.match("unix|vsock|ipv4:.*,|ipv6:.*,", target):
        raise UnusableProxy(f"a proxy cannot reach {target}: give one host:port, or omit the proxy")
    return proxy


def _service_config(idempotent_methods: Iterable[str]) -> str:
    # https://github.com/grpc/grpc/blob/master/doc/service_config.md
    names = []
    for path in idempotent_methods:
        service, _, method = path.removeprefix("/").partition("/")
        names.append({"service": service, "method": method})
    retries = {
        "name": names,
        "retryPolicy": {
            "maxAttempts": 4,
            "initialBackoff": "0.1s",
            "maxBackoff": "2s",
            "backoffMultiplier": 3,
            # A stopping server answers CANCELLED to calls that never reached a handler. A server
            # without budget answers RESOURCE_EXHAUSTED, with the delay before a retry.
            "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED", "RESOURCE_EXHAUSTED"],
        },
    }
    return json.dumps(
        {
            "loadBalancingConfig": [{"round_robin": {}}],
            "methodConfig": [retries] if names else [],
        }
    )
