"""Connections of the HTTP server, with limits on their number and on the time of each phase."""

import asyncio
import enum
from collections import Counter, OrderedDict
from functools import partial
from typing import cast

import structlog
from aiohttp import StreamReader, web

from pipesync_server.client_address import TrustedProxies
from service_server.errors import TooManyDeliveries
from service_server.floods import FloodLog
from service_server.http.fragments import LineCount
from service_server.http.limits import HttpLimits
from service_server.http.parser import FrameworkParser, RequestParser
from service_server.metrics import Metrics

_log = structlog.get_logger(__name__)

# Share of the connections that working requests leave to others, such as health checks.
_SPARE = 1 / 8


class Phase(enum.StrEnum):
    """Phase of a connection; the values are the reasons in metrics for ending a connection."""

    HANDSHAKE = "handshake_timeout"
    HEAD = "head_timeout"
    BODY = "body_timeout"
    ANSWER = "answer_timeout"
    IDLE = "idle_timeout"
    # The connection waits for this process alone, so it is not ended.
    WORK = "work"


class AddressConnections:
    """The connections of one address.

    Attributes:
        address: The address, in the form of ``TrustedProxies.client``.
        is_trusted: Whether it is a trusted proxy, which forwards for many clients.
        count: The number of its connections.
        waiting: Its connections that wait for the client, the longest first.
    """

    def __init__(self, address: str, *, is_trusted: bool) -> None:
        self.address = address
        self.is_trusted = is_trusted
        self.count = 0
        self.waiting: OrderedDict[HttpConnection, None] = OrderedDict()


class HttpConnection(asyncio.Protocol):
    """One connection, between its transport and the framework's protocol.

    Attributes:
        protocol: The framework's protocol.
        peer: The connections of the same address.
        is_open: Whether the connection counts towards the limits.
        is_ending: Whether the connection ends with the answer to the current request.
        phase: The current phase.
        since: The beginning of the phase, on the event loop's clock.
        head_bytes: Bytes of the head that is arriving.
        client: The client whose request is processed.
        opening: The task that opens the connection.
        transport: The transport; None before the connection is open.
    """

    __slots__ = (
        "_body",
        "_connections",
        "_lines",
        "_parser",
        "client",
        "head_bytes",
        "is_ending",
        "is_open",
        "opening",
        "peer",
        "phase",
        "protocol",
        "since",
        "transport",
    )

    def __init__(
        self, connections: "Connections", protocol: web.RequestHandler, peer: AddressConnections
    ) -> None:
        self._connections = connections
        # The body of the last answered request; None from the next request to its answer.
        self._body: StreamReader | None = None
        self._lines = LineCount()
        # The framework has no public way to replace its parser. The connection is looked up when
        # data is malformed, so that no cycle keeps the memory of ended ones.
        self._parser = RequestParser(
            cast(FrameworkParser, protocol._parser), partial(connections.note_malformed, protocol)
        )
        protocol._parser = self._parser  # type: ignore[assignment]
        self.head_bytes = 0
        self.protocol = protocol
        self.peer = peer
        self.is_open = True
        self.is_ending = False
        self.phase = Phase.HANDSHAKE
        self.since = connections.now()
        self.client = ""
        self.opening: asyncio.Task[None] | None = None
        self.transport: asyncio.Transport | None = None

    def enter(self, phase: Phase) -> None:
        """Enter a phase in which the connection waits for the client."""
        if self.phase is Phase.WORK:
            self._connections.stop_work(self)
        self.phase = phase
        if self.is_open:
            self.since = self._connections.now()
            self.peer.waiting[self] = None
            self.peer.waiting.move_to_end(self)

    def work(self, client: str) -> None:
        """Begin or continue to work for a client, until the connection enters another phase.

        Raises:
            TooManyDeliveries: The client, or all clients, have too many requests in progress.
        """
        if self.phase is not Phase.WORK:
            self._connections.start_work(self, client)
            self.phase = Phase.WORK

    def abort(self) -> None:
        """End the connection, because others need its memory."""
        self._connections.end(self, "memory")

    def begin(self) -> None:
        """Record that the head of a request is complete."""
        self._body = None
        self.enter(Phase.ANSWER)

    def answer(self, body: StreamReader) -> None:
        """Record that a request is answered; the rest of its body is discarded."""
        self.enter(Phase.ANSWER)
        self._body = body

    def has_answered(self) -> bool:
        """Return whether the client has sent its whole request and read the answer."""
        return (
            self.phase is Phase.ANSWER
            and self._body is not None
            and self._body.is_eof()
            and self.transport is not None
            and not self.transport.get_write_buffer_size()
        )

    def break_off(self, body: StreamReader) -> None:
        """End the connection after the answer to the request whose body is malformed."""
        if self._body is not body:
            body.set_exception(web.RequestPayloadError())
        # Nothing waits for the rest of the body, so the connection closes after the answer.
        self.is_ending = True
        body.feed_eof()
        self.protocol.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pass the transport to the framework."""
        self.transport = cast(asyncio.Transport, transport)
        self.enter(Phase.HEAD)
        self.protocol.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass data to the framework; data after an answered request begins the next request.

        Data after malformed data is discarded: the connection ends with its answer.
        """
        if self._parser.is_malformed:
            return
        if self._body is not None and self._body.is_eof():
            self._body = None
            self.enter(Phase.HEAD)
            self.head_bytes = 0
            self._lines.begin()
        if self._lines.exceeds(data):
            self._connections.end(self, "fragmented")
            return
        if self.phase is Phase.HEAD:
            self.head_bytes += len(data)
        self.protocol.data_received(data)

    def eof_received(self) -> None:
        """Tell the framework that the client has closed its side."""
        self.protocol.eof_received()

    def pause_writing(self) -> None:
        """Tell the framework that the write buffer is full."""
        self.protocol.pause_writing()

    def resume_writing(self) -> None:
        """Tell the framework that the write buffer has space again."""
        self.protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection from the count."""
        self._connections.remove(self)
        self.protocol.connection_lost(exc)


class Connections:
    """All connections; ends those that take too long, and others to admit new ones.

    At the limit, a new connection replaces one that waits for its client: of the address with most
    connections, the one that has waited longest. Working requests never take all connections, so
    there always is one to replace, and health checks are answered under any load.
    """

    def __init__(self, limits: HttpLimits, proxies: TrustedProxies, metrics: Metrics) -> None:
        self.limits = limits
        self.now = asyncio.get_running_loop().time
        self._proxies = proxies
        self._metrics = metrics
        self._most = limits.connections_within_descriptors()
        self._peers: dict[str, AddressConnections] = {}
        self._count = 0
        self._of_protocol: dict[web.RequestHandler, HttpConnection] = {}
        self._work = 0
        self._work_of: Counter[str] = Counter()
        self._timeouts = {
            Phase.HANDSHAKE: limits.handshake_timeout,
            Phase.HEAD: limits.head_timeout,
            # The request is answered before, at the timeout of its body.
            Phase.BODY: 2 * limits.body_timeout,
            Phase.ANSWER: limits.answer_timeout,
            Phase.IDLE: limits.idle_timeout,
        }
        self._floods = FloodLog()
        self._sweep_interval = min(1.0, *(timeout / 4 for timeout in self._timeouts.values()))
        self._next_sweep = asyncio.get_running_loop().call_later(self._sweep_interval, self._sweep)

    def close(self) -> None:
        """Stop ending connections."""
        self._next_sweep.cancel()

    def admit(self, peer_address: str, protocol: web.RequestHandler) -> HttpConnection | None:
        """Return a new connection, which may replace another one; None at the limit."""
        is_trusted = self._proxies.trusts(peer_address)
        address = peer_address if is_trusted else self._proxies.client(peer_address, "")
        peer = self._peers.get(address) or AddressConnections(address, is_trusted=is_trusted)
        is_full = not peer.is_trusted and peer.count >= self.limits.most_per_address
        if (is_full and not self._make_room(peer)) or (
            self._count >= self._most and not self._make_room(self._heaviest())
        ):
            self._metrics.http_connections_ended.labels("refused").inc()
            self._floods.log(_log.warning, "http_connection_refused", connections=self._count)
            return None
        connection = HttpConnection(self, protocol, peer)
        self._of_protocol[protocol] = connection
        self._peers[peer.address] = peer
        peer.count += 1
        peer.waiting[connection] = None
        self._count += 1
        self._metrics.http_connections.set(self._count)
        return connection

    def of(self, protocol: web.RequestHandler) -> HttpConnection | None:
        """Return the connection of a request; None once it has ended."""
        return self._of_protocol.get(protocol)

    def start_work(self, connection: HttpConnection, client: str) -> None:
        """See ``HttpConnection.work``."""
        if self._work >= _without_spare(self._most):
            raise TooManyDeliveries("too many requests are in hand", limit="requests")
        if self._work_of[client] >= _without_spare(self.limits.most_per_address):
            raise TooManyDeliveries(
                "too many requests of this address are in hand", limit="requests_of_address"
            )
        self._work += 1
        self._work_of[client] += 1
        connection.client = client
        connection.peer.waiting.pop(connection, None)

    def stop_work(self, connection: HttpConnection) -> None:
        """Record that a connection has ended its work."""
        self._work -= 1
        self._work_of[connection.client] -= 1
        if not self._work_of[connection.client]:
            del self._work_of[connection.client]

    def end(self, connection: HttpConnection, reason: str) -> None:
        """End a connection that waits for its client."""
        self._metrics.http_connections_ended.labels(reason).inc()
        log = _log.debug if reason == Phase.IDLE else _log.info
        self._floods.log(log, "http_connection_ended", reason, reason=reason)
        transport, opening = connection.transport, connection.opening
        self.remove(connection)
        if transport is None:
            if opening is not None:
                opening.cancel()
        elif connection.phase is Phase.IDLE and transport.get_extra_info("sslcontext") is None:
            transport.close()
        else:
            # Aborted without a TLS shutdown or pending data, which the client might not read.
            transport.abort()

    def note_malformed(
        self, protocol: web.RequestHandler, error: str, body: StreamReader | None
    ) -> None:
        """Record malformed data, and end its connection.

        Args:
            protocol: The protocol of the connection.
            error: The name of the error.
            body: The unfinished body that has the malformed data; None if it is in a head.
        """
        self._metrics.http_malformed.inc()
        self._floods.log(_log.info, "http_request_malformed", error, error=error)
        connection = self.of(protocol)
        if connection is not None and body is not None:
            connection.break_off(body)

    def fail(self, connection: HttpConnection, error: Exception) -> None:
        """Record that a connection could not be opened."""
        if connection.is_open:
            self._metrics.http_connections_ended.labels("handshake_failed").inc()
            self._floods.log(
                _log.info,
                "http_connection_ended",
                "handshake_failed",
                reason="handshake_failed",
                error=type(error).__name__,
            )
            self.remove(connection)

    def remove(self, connection: HttpConnection) -> None:
        """Remove an ended connection; further calls have no effect."""
        if not connection.is_open:
            return
        connection.is_open = False
        self._of_protocol.pop(connection.protocol, None)
        peer = connection.peer
        peer.waiting.pop(connection, None)
        peer.count -= 1
        if not peer.count:
            self._peers.pop(peer.address, None)
        self._count -= 1
        self._metrics.http_connections.set(self._count)

    def _heaviest(self) -> AddressConnections:
        """Return the address with most connections, trusted proxies last."""
        return max(
            self._peers.values(),
            key=lambda peer: (bool(peer.waiting), not peer.is_trusted, peer.count),
        )

    def _make_room(self, peer: AddressConnections) -> bool:
        for longest in peer.waiting:
            self.end(longest, "room")
            return True
        return False

    def _sweep(self) -> None:
        """End the connections whose phase has timed out."""
        try:
            now = self.now()
            for connection in [one for peer in self._peers.values() for one in peer.waiting]:
                if connection.has_answered():
                    connection.enter(Phase.IDLE)
                elif (
                    connection.phase is Phase.HEAD
                    and connection.head_bytes > self.limits.most_head_bytes
                ):
                    self.end(connection, "head_too_large")
                elif now - connection.since > self._timeouts[connection.phase]:
                    self.end(connection, connection.phase)
        except Exception:
            _log.exception("http_connections_not_swept")
        finally:
            loop = asyncio.get_running_loop()
            self._next_sweep = loop.call_later(self._sweep_interval, self._sweep)


def _without_spare(most: int) -> int:
    return most - max(1, int(most * _SPARE))
