"""HTTP server for webhooks, health and metrics."""

import asyncio
import logging
import time
from collections.abc import Collection, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from types import TracebackType
from typing import Self

import structlog
from aiohttp import hdrs, web
from google.rpc import code_pb2
from prometheus_client import CONTENT_TYPE_LATEST

from pipesync_rpc import context as call_context
from pipesync_rpc.context import AUTHORIZATION_KEY
from pipesync_rpc.credentials import ServerTls, refuse_insecure_listen
from pipesync_rpc.display_text import sanitize, truncate
from pipesync_rpc.errors import RpcError
from pipesync_rpc.reasons import Reason
from pipesync_server.access import Authenticator, PermissionDenied
from pipesync_server.certificates import Certificate, parse_certificate
from pipesync_server.client_address import TrustedProxies
from pipesync_server.peer import Peer
from pipesync_server.tokens import TokenAuthenticator, Unauthenticated
from service_server.background.heartbeats import Heartbeats
from service_server.floods import FloodLog
from service_server.http.body_memory import BodyMemory
from service_server.http.connections import Connections, HttpConnection
from service_server.http.deliveries import PATH as WEBHOOKS_PATH
from service_server.http.deliveries import Deliveries, refuse_expectation
from service_server.http.limits import HttpLimits
from service_server.http.listener import Listener, bind
from service_server.http.parser import MALFORMED_TEXT
from service_server.http.requests import HttpRequest, make_request
from service_server.http.tls import ssl_context
from service_server.metrics import Metrics
from service_server.store import inbox, pipelines
from service_server.store.database import Database
from service_server.webhooks.receiver import WebhookReceiver

_log = structlog.get_logger(__name__)

_WEBHOOKS = f"{WEBHOOKS_PATH}{{pipeline_id}}"
# The paths, with the methods that each allows.
ROUTES: Mapping[str, tuple[str, ...]] = {
    _WEBHOOKS: (hdrs.METH_POST,),
    "/healthz": (hdrs.METH_GET, hdrs.METH_HEAD),
    "/metrics": (hdrs.METH_GET, hdrs.METH_HEAD),
}
# Timeout of the health check of the database, in seconds.
_DATABASE_TIMEOUT = 2.0
# Seconds for which the rest of an unwanted body is read and discarded, to keep the connection.
_LINGERING = 5.0
_MOST_HEADERS = 64
# Characters of a path that logs show.
_MOST_SHOWN = 128
# All other reasons are failures of the service, and answer 503: the sender has to retry.
_STATUS: dict[str, int] = {
    Reason.PIPELINE_NOT_FOUND: 404,
    Reason.INVALID_REQUEST: 400,
    Reason.BAD_SIGNATURE: 401,
    Reason.UNAUTHENTICATED: 401,
    Reason.PERMISSION_DENIED: 403,
    Reason.DELIVERY_TOO_LARGE: 413,
    Reason.TOO_MANY_DELIVERIES: 429,
    Reason.TOO_MANY_FAILED_LOGINS: 429,
}


class HttpServer:
    """An HTTP server with a graceful shutdown, as an async context manager.

    On an address that is no loopback address it requires, like the gRPC server, TLS and either
    tokens or a client CA. Of these credentials /metrics requires one; a request to /webhooks has a
    signature instead.
    """

    def __init__(
        self,
        *,
        listen: str,
        receiver: WebhookReceiver,
        database: Database,
        metrics: Metrics,
        heartbeats: Heartbeats,
        tls: ServerTls | None = None,
        token_hashes: Collection[str] = (),
        authenticator: Authenticator | None = None,
        grace: float = 30.0,
        limits: HttpLimits | None = None,
        proxies: TrustedProxies | None = None,
    ) -> None:
        """Initialize.

        Args:
            listen: ``host:port`` or ``unix:/path``; port 0 selects a free port.
            receiver: The receiver of webhooks.
            database: The database, which /healthz checks.
            metrics: The metrics that /metrics shows.
            heartbeats: The heartbeats of the background loops, which /healthz checks.
            tls: The TLS settings; None for plain text.
            token_hashes: Hashes by ``tokens.hash_token``. Without any and without an authenticator,
                /metrics requires no credentials.
            authenticator: Authenticator of callers of /metrics; by default one by
                ``token_hashes``.
            grace: Seconds that requests in progress have at the end.
            limits: Limits and timeouts; by default those of ``HttpLimits``.
            proxies: Proxies whose X-Forwarded-For is trusted.
        """
        self._listen = listen
        self._database = database
        self._metrics = metrics
        self._heartbeats = heartbeats
        self._tls = tls
        self._token_hashes = tuple(token_hashes)
        self._authenticator = authenticator or TokenAuthenticator(token_hashes)
        self._grace = grace
        self._limits = limits or HttpLimits()
        self._proxies = proxies or TrustedProxies()
        self._deliveries = Deliveries(
            receiver, metrics, BodyMemory(self._limits, metrics), self._limits
        )
        self._is_draining = False
        self._probing = asyncio.Lock()
        self._probed_at, self._is_database_available = -1.0, False
        self._floods = FloodLog()
        self._running = AsyncExitStack()
        self.address = ""

    def drain(self) -> None:
        """Refuse webhooks from now on, and report this in /healthz."""
        self._is_draining = True

    async def __aenter__(self) -> Self:
        refuse_insecure_listen(self._listen, self._tls, self._token_hashes)
        context = ssl_context(self._tls) if self._tls is not None else None
        sockets, address = await bind(self._listen)
        async with AsyncExitStack() as stack:
            connections = Connections(self._limits, self._proxies, self._metrics)
            stack.callback(connections.close)
            server = web.Server(
                partial(self._answer, connections),
                request_factory=make_request,
                access_log=None,
                # The signature is of the body as it was sent.
                auto_decompress=False,
                # ``connections`` ends idle connections before this.
                keepalive_timeout=2 * self._limits.idle_timeout,
                lingering_time=_LINGERING,
                max_headers=_MOST_HEADERS,
                logger=self._framework_logger(),
            )
            stack.push_async_callback(server.shutdown, self._grace)
            stack.callback(server.pre_shutdown)
            # Requests that have arrived by now are answered.
            stack.push_async_callback(asyncio.sleep, 0)
            listener = Listener(server, connections, self._limits, context)
            await stack.enter_async_context(listener.accepting(sockets))
            self._running = stack.pop_all()
        is_unix = address.startswith("unix:")
        self.address = address if is_unix else f"{'https' if context else 'http'}://{address}"
        _log.info("listening", protocol="http", address=self.address)
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.drain()
        await self._running.aclose()

    def _framework_logger(self) -> logging.Logger:
        """Return a rate-limited logger for errors of the framework."""
        logger = logging.Logger("http")  # noqa: LOG001 - it is of this server alone

        def note(record: logging.LogRecord) -> bool:
            name = type(record.exc_info[1] if record.exc_info else None).__name__
            self._floods.log(_log.error, "http_failed", name, error=name)
            return False

        logger.addFilter(note)
        return logger

    async def _route(self, request: web.BaseRequest, connection: HttpConnection) -> web.Response:
        """Answer a request by its path.

        Raises:
            web.HTTPException: The request is malformed, or its path does not exist or does not
                allow the method.
        """
        if isinstance(request, HttpRequest) and request.is_malformed:
            raise web.HTTPBadRequest(reason=MALFORMED_TEXT)
        path = request.rel_url.raw_path
        is_webhook = path.startswith(WEBHOOKS_PATH)
        route = _WEBHOOKS if is_webhook else path
        if route not in ROUTES:
            raise web.HTTPNotFound
        _require_method(request, *ROUTES[route])
        if is_webhook:
            if self._is_draining:
                raise _stopping()
            client = self._client(request, connection)
            return await self._deliveries.answer(request, connection, client)
        refuse_expectation(request)
        if path == "/healthz":
            return await self._health()
        client = self._client(request, connection)
        connection.work(client)
        return await self._show_metrics(
            request, Peer(address=client, certificate=_certificate(request))
        )

    def _client(self, request: web.BaseRequest, connection: HttpConnection) -> str:
        if not connection.peer.is_trusted:
            return connection.peer.address
        forwarded_for = ",".join(request.headers.getall("X-Forwarded-For", ()))
        return self._proxies.client(connection.peer.address, forwarded_for)

    async def _health(self) -> web.Response:
        if self._is_draining:
            return web.json_response({"status": "draining"}, status=503)
        if standing_still := self._heartbeats.stalled_loops():
            return web.json_response(
                {"status": "a background loop stands still", "loops": standing_still}, status=503
            )
        if not await self._database_answered_since(time.monotonic()):
            return web.json_response({"status": "the database is unavailable"}, status=503)
        return web.json_response({"status": "serving"})

    async def _database_answered_since(self, asked_at: float) -> bool:
        # Concurrent health checks share one query of the database.
        async with self._probing:
            if self._probed_at < asked_at:
                self._probed_at = time.monotonic()
                self._is_database_available = await self._database_answers()
            return self._is_database_available

    async def _database_answers(self) -> bool:
        # After any error the database counts as unavailable.
        with suppress(Exception):
            async with (
                asyncio.timeout(_DATABASE_TIMEOUT),
                self._database.connection() as connection,
            ):
                await connection.execute("SELECT 1")
                return True
        return False

    async def _show_metrics(self, request: web.BaseRequest, peer: Peer) -> web.Response:
        if self._tls is not None and self._tls.client_ca is not None and peer.certificate is None:
            # TLS makes the certificate optional for the sake of webhooks; here it is required, and
            # a token does not replace it.
            self._authenticator.admit("", peer)
            raise Unauthenticated("this server asks for a client certificate")
        caller = self._authenticator.admit(request.headers.get(AUTHORIZATION_KEY, ""), peer)
        if caller.prefix:
            raise PermissionDenied(
                f"the metrics are of all pipelines, and this {caller.credential} is for those whose"
                f" ids begin with {caller.prefix!r}"
            )
        backlog: inbox.Backlog | None = None
        rejected: int | None = None
        # The metrics of the process are needed most while the database is unavailable.
        with suppress(Exception):
            async with self._database.connection() as connection:
                backlog = await inbox.backlog(connection)
                rejected = await pipelines.all_held_rejected(connection)
        return web.Response(
            body=self._metrics.text(backlog, rejected),
            headers={"Content-Type": CONTENT_TYPE_LATEST},
        )

    async def _answer(
        self, connections: Connections, request: web.BaseRequest
    ) -> web.StreamResponse:
        """Answer and log a request; errors become responses."""
        started = time.monotonic()
        connection = connections.of(request.protocol)
        if connection is None:
            # The connection has ended, so its client does not receive this.
            return _failure(503, "the connection has ended")
        # Requests of one connection share a task, so the context of the previous one is replaced.
        call_context.bind_incoming({name.lower(): text for name, text in request.headers.items()})
        connection.begin()
        try:
            response = await self._route(request, connection)
        except web.HTTPException as error:
            response = _failure(error.status, error.reason)
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except RpcError as error:
            response = _failure(_STATUS.get(error.reason, 503), error.message, error.reason)
        except Exception:
            _log.exception("http_failed", method=request.method, path=_shown_path(request))
            response = _failure(500, "internal error", Reason.INTERNAL)
        finally:
            connection.answer(request.content)
        response.headers["X-Request-Id"] = call_context.request_id.get()
        is_refused = 400 <= response.status < 500 and not connection.peer.is_trusted
        if is_refused or connection.is_ending:
            # A refused client has to reconnect, and connections are accepted one by one, which
            # leaves time for other clients. After a malformed body no request can follow.
            response.force_close()
        if response.status >= 400:
            self._floods.log(
                _log.info,
                "http_finished",
                response.status,
                method=truncate(request.method, _MOST_SHOWN),
                path=_shown_path(request),
                status=response.status,
                duration_ms=round((time.monotonic() - started) * 1000, 1),
            )
        else:
            _log.debug(
                "http_finished",
                method=request.method,
                path=request.path,
                status=response.status,
                duration_ms=round((time.monotonic() - started) * 1000, 1),
            )
        return response


def _certificate(request: web.BaseRequest) -> Certificate | None:
    transport = request.transport
    connection = transport.get_extra_info("ssl_object") if transport is not None else None
    shown = connection.getpeercert(binary_form=True) if connection is not None else None
    return parse_certificate(shown) if shown else None


def _require_method(request: web.BaseRequest, *methods: str) -> None:
    if request.method not in methods:
        raise web.HTTPMethodNotAllowed(truncate(request.method, _MOST_SHOWN), methods)


def _shown_path(request: web.BaseRequest) -> str:
    return sanitize(request.path, _MOST_SHOWN)


def _failure(status: int, error: str, reason: str = "") -> web.Response:
    response = web.json_response({"error": error, "reason": reason}, status=status)
    if status in (429, 503):
        response.headers["Retry-After"] = "1"
    if reason == Reason.UNAUTHENTICATED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _stopping() -> RpcError:
    return RpcError("the server is stopping", code=code_pb2.UNAVAILABLE, reason=Reason.STOPPING)
