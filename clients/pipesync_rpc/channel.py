"""The client's end of a connection."""

import json
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

import grpc

from pipesync_rpc.credentials import ClientTls, is_loopback
from pipesync_rpc.interceptors.client import outgoing_interceptors
from pipesync_rpc.limits import SIZE_OPTIONS

# gRPC would take the proxy of http_proxy, https_proxy or grpc_proxy, even to this machine, and
# looks at no_proxy for one address only:
# https://grpc.github.io/grpc/core/md_doc_environment_variables.html
DIRECT = ("grpc.enable_http_proxy", 0)

_OPTIONS = (
    *SIZE_OPTIONS,
    # Nor the proxy of GRPC_ADDRESS_HTTP_PROXY, which the option above does not turn off.
    ("grpc.address_http_proxy_enabled_addresses", ""),
    # A server that died without a word is noticed in 30 s, while a call waits for it.
    ("grpc.keepalive_time_ms", 20_000),
    # Not keepalive_timeout_ms: grpcio 1.85 goes by this one, which is a minute by default.
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A server that restarts is found again soon; gRPC's own back-off grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


class CannotOpenChannel(ValueError):
    """A channel cannot be opened as it was asked for: the message says why and what to do."""


class UnusableProxy(CannotOpenChannel):
    """A proxy was given that the channel cannot go through."""


class InsecureToken(CannotOpenChannel):
    """A token would be sent in plain text over a network."""


def open_channel(
    target: str,
    *,
    tls: ClientTls | None = None,
    token: str | None = None,
    idempotent_methods: Iterable[str] = (),
    proxy: str | None = None,
) -> grpc.aio.Channel:
    """A channel whose calls carry identities and the token.

    It connects at its first call. Close it when done.

    Args:
        target: ``host:port``, ``dns:///host:port`` (its addresses take turns), ``unix:/path``.
        tls: None is plain text.
        token: The bearer token, if the server asks for one.
        idempotent_methods: ``/package.Service/Method`` each: tried again when UNAVAILABLE.
        proxy: ``http://host:port``, with ``user:password@`` if it asks for them: what leads to the
            target by CONNECT. None goes to it directly, whatever the environment says.

    Raises:
        UnusableProxy: there is a proxy, but its address is none, or the target not one host.
        InsecureToken: there is a token, but neither TLS nor a loopback target.
        OSError: a PEM file cannot be read.
    """
    way = DIRECT if proxy is None else ("grpc.http_proxy", _proxy(proxy, target))
    options = (*_OPTIONS, way, ("grpc.service_config", _service_config(idempotent_methods)))
    interceptors = outgoing_interceptors(token)
    if tls is not None:
        return grpc.aio.secure_channel(
            target, tls.credentials(), options=options, interceptors=interceptors
        )
    if token and not is_loopback(target):
        raise InsecureToken(
            f"the token would travel to {target} in plain text: use TLS, or leave the token out"
        )
    return grpc.aio.insecure_channel(target, options=options, interceptors=interceptors)


def _proxy(proxy: str, target: str) -> str:
    try:
        parts = urlsplit(proxy)
        is_usable = parts.scheme == "http" and parts.hostname and parts.port
    except ValueError:
        is_usable = False
    if not is_usable or parts.path.strip("/") or parts.query:
        # It may hold a password, so it is not quoted.
        raise UnusableProxy("the proxy must be http://host:port, or http://user:password@host:port")
    if re.match("unix|vsock|ipv4:.*,|ipv6:.*,", target):
        raise UnusableProxy(f"no proxy leads to {target}: give one host:port, or take it out")
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
            "retryableStatusCodes": ["UNAVAILABLE"],
        },
    }
    return json.dumps(
        {
            "loadBalancingConfig": [{"round_robin": {}}],
            "methodConfig": [retries] if names else [],
        }
    )
