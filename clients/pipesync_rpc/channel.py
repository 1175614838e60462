"""The client's end of a connection."""

import json
from collections.abc import Iterable

import grpc

from pipesync_rpc.credentials import ClientTls, is_loopback
from pipesync_rpc.interceptors.client import outgoing_interceptors
from pipesync_rpc.limits import SIZE_OPTIONS

_OPTIONS = (
    *SIZE_OPTIONS,
    # A server that died without a word is noticed in 30 s, while a call waits for it.
    ("grpc.keepalive_time_ms", 20_000),
    # Not keepalive_timeout_ms: grpcio 1.85 goes by this one, which is a minute by default.
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A server that restarts is found again soon; gRPC's own back-off grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


class InsecureToken(ValueError):
    """A token would be sent in plain text over a network."""


def open_channel(
    target: str,
    *,
    tls: ClientTls | None = None,
    token: str | None = None,
    idempotent_methods: Iterable[str] = (),
) -> grpc.aio.Channel:
    """A channel whose calls carry identities and the token.

    It connects at its first call. Close it when done.

    Args:
        target: ``host:port``, ``dns:///host:port`` (its addresses take turns), ``unix:/path``.
        tls: None is plain text.
        token: The bearer token, if the server asks for one.
        idempotent_methods: ``/package.Service/Method`` each: tried again when UNAVAILABLE.

    Raises:
        InsecureToken: there is a token, but neither TLS nor a loopback target.
        OSError: a PEM file cannot be read.
    """
    options = (*_OPTIONS, ("grpc.service_config", _service_config(idempotent_methods)))
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
