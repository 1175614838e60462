"""Limits of the HTTP server."""

import resource
from dataclasses import dataclass

# The share of the file descriptors of the process that connections may take.
_SHARE_OF_DESCRIPTORS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """Limits and timeouts of the HTTP server; all times in seconds.

    Attributes:
        most_connections: Concurrent connections.
        most_per_address: Concurrent connections of one address that is no trusted proxy, and
            concurrent requests of one client behind a trusted proxy.
        handshake_timeout: Timeout of the TLS handshake of a new connection.
        head_timeout: Timeout of a request's line and headers, from its first byte, or from the
            beginning of the connection.
        idle_timeout: Timeout between a response and the next request.
        body_timeout: Timeout of a request's body.
        answer_timeout: Timeout of the client's read of the response.
        most_head_bytes: Bytes of a request's line and headers together.
        most_body_memory: Bytes of the bodies of all concurrent requests.
        most_body_memory_per_address: Bytes of the bodies of one client's concurrent requests.
    """

    most_connections: int = 1000
    most_per_address: int = 250
    handshake_timeout: float = 10.0
    head_timeout: float = 10.0
    # Load balancers keep idle connections for up to ten minutes, and they have to close first.
    idle_timeout: float = 620.0
    body_timeout: float = 30.0
    answer_timeout: float = 30.0
    most_head_bytes: int = 32 * 1024
    most_body_memory: int = 64 * 1024 * 1024
    most_body_memory_per_address: int = 16 * 1024 * 1024

    def connections_within_descriptors(self) -> int:
        """Return ``most_connections``, or fewer if the process may open few files."""
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if allowed == resource.RLIM_INFINITY:
            return self.most_connections
        return max(1, min(self.most_connections, int(allowed * _SHARE_OF_DESCRIPTORS)))
