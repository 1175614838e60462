"""The service's HTTP side: webhooks in, health and metrics out."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from types import TracebackType
from typing import Self

import structlog
from aiohttp import web
from google.rpc import code_pb2
from prometheus_client import CONTENT_TYPE_LATEST

from pipesync_rpc import context as call_context
from pipesync_rpc.credentials import CannotListen, ServerTls, refuse_insecure_listen
from pipesync_rpc.errors import RpcError
from pipesync_rpc.reasons import Reason
from pipesync_rpc.tokens import AUTHORIZATION_KEY, TokenCheck, Unauthenticated
from service_server.errors import DeliveryTooLarge
from service_server.heartbeats import Heartbeats
from service_server.metrics import Metrics
from service_server.store import inbox, pipelines
from service_server.store.database import Database
from service_server.webhooks.intake import MOST_BYTES, Intake

_log = structlog.get_logger(__name__)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# How long a sender may take for its body, and the database for a look at it, in seconds.
_BODY_TIMEOUT = 30.0
_DATABASE_TIMEOUT = 2.0
# Whatever is not here is nobody's fault but ours: the sender is to try again.
_STATUS: dict[str, int] = {
    Reason.PIPELINE_NOT_FOUND: 404,
    Reason.WEBHOOKS_NOT_TAKEN: 404,
    Reason.INVALID_REQUEST: 400,
    Reason.BAD_SIGNATURE: 401,
    Reason.UNAUTHENTICATED: 401,
    Reason.DELIVERY_TOO_LARGE: 413,
}


class HttpServer:
    """An HTTP server with an orderly end, as an async context manager.

    Beyond loopback it listens only as the gRPC side does: with TLS, and with tokens or a client
    authority, which /metrics asks for. /webhooks asks for neither: its callers show a signature.
    """

    def __init__(
        self,
        *,
        listen: str,
        intake: Intake,
        database: Database,
        metrics: Metrics,
        heartbeats: Heartbeats,
        tls: ServerTls | None = None,
        token_hashes: Collection[str] = (),
        grace: float = 30.0,
    ) -> None:
        """Takes what it stands on.

        Args:
            listen: ``host:port`` or ``unix:/path``; port 0 takes a free one.
            intake: Where webhooks go.
            database: Whose state is part of the service's health.
            metrics: What /metrics shows.
            heartbeats: Of the loops that /healthz looks at.
            tls: None is plain text.
            token_hashes: Of ``tokens.hash_token``; none lets everybody see the metrics.
            grace: Seconds that requests in hand have at the end.
        """
        self._listen = listen
        self._intake = intake
        self._database = database
        self._metrics = metrics
        self._heartbeats = heartbeats
        self._tls = tls
        self._token_hashes = tuple(token_hashes)
        self._tokens = TokenCheck(token_hashes)
        self._grace = grace
        self._is_draining = False
        self._runner: web.AppRunner | None = None
        self.address = ""

    def drain(self) -> None:
        """Takes no more webhooks, and says so in /healthz, from now on."""
        self._is_draining = True

    async def __aenter__(self) -> Self:
        refuse_insecure_listen(self._listen, self._tls, self._token_hashes)
        app = web.Application(middlewares=[self._boundary], client_max_size=MOST_BYTES)
        app.router.add_post("/webhooks/{pipeline_id}", self._take_webhook)
        app.router.add_get("/healthz", self._tell_health)
        app.router.add_get("/metrics", self._tell_metrics)
        # The signature is over the body as it was sent.
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=self._grace, auto_decompress=False
        )
        await self._runner.setup()
        try:
            self.address = await self._bind(self._runner)
        except BaseException:
            await self._runner.cleanup()
            raise
        _log.info("listening", protocol="http", address=self.address)
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.drain()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _bind(self, runner: web.AppRunner) -> str:
        context = _ssl_context(self._tls) if self._tls is not None else None
        path = self._listen.removeprefix("unix:")
        try:
            if path != self._listen:
                await web.UnixSite(runner, path, ssl_context=context).start()
                return self._listen
            host, _, port = self._listen.rpartition(":")
            host = host.removeprefix("[").removesuffix("]")
            if not host or not port.isdecimal():
                raise CannotListen(f"cannot listen on {self._listen!r}: give host:port")
            await web.TCPSite(runner, host, int(port), ssl_context=context).start()
        except (OSError, OverflowError) as error:
            raise CannotListen(f"cannot listen on {self._listen}: {error}") from error
        taken = runner.addresses[0][1]
        return f"{'https' if context else 'http'}://{self._listen.rpartition(':')[0]}:{taken}"

    async def _take_webhook(self, request: web.Request) -> web.Response:
        if self._is_draining:
            raise _stopping()
        pipeline_id = request.match_info["pipeline_id"]
        call_context.bind(pipeline_id=pipeline_id)
        headers = {name.lower(): value for name, value in request.headers.items()}
        taken = await self._intake.take(
            pipeline_id, await self._body(request), headers, ingress="http"
        )
        return web.json_response({"event_id": taken.event_id, "duplicate": taken.is_duplicate})

    async def _body(self, request: web.Request) -> bytes:
        try:
            return await _read(request)
        except web.HTTPRequestEntityTooLarge:
            error = DeliveryTooLarge(MOST_BYTES)
            self._metrics.count_delivery("http", error.reason)
            raise error from None
        except TimeoutError:
            raise web.HTTPRequestTimeout from None
        except (web.RequestPayloadError, ConnectionError):
            raise web.HTTPBadRequest(reason="the body broke off") from None

    async def _tell_health(self, _: web.Request) -> web.Response:
        if self._is_draining:
            return web.json_response({"status": "draining"}, status=503)
        if standing_still := self._heartbeats.standing_still():
            return web.json_response(
                {"status": "a background loop stands still", "loops": standing_still}, status=503
            )
        if not await self._database_answers():
            return web.json_response({"status": "the database is away"}, status=503)
        return web.json_response({"status": "serving"})

    async def _database_answers(self) -> bool:
        # Whatever it raises, it is of no use.
        with suppress(Exception):
            async with (
                asyncio.timeout(_DATABASE_TIMEOUT),
                self._database.connection() as connection,
            ):
                await connection.execute("SELECT 1")
                return True
        return False

    async def _tell_metrics(self, request: web.Request) -> web.Response:
        transport = request.transport
        certificate = transport.get_extra_info("peercert") if transport is not None else None
        if self._tls is not None and self._tls.client_ca is not None and not certificate:
            raise Unauthenticated("this server asks for a client certificate")
        self._tokens.admit(request.headers.get(AUTHORIZATION_KEY, ""))
        backlog: inbox.Backlog | None = None
        rejected: int | None = None
        # The metrics of the process are needed most where the database fails.
        with suppress(Exception):
            async with self._database.connection() as connection:
                backlog = await inbox.backlog(connection)
                rejected = await pipelines.all_held_rejected(connection)
        return web.Response(
            body=self._metrics.text(backlog, rejected),
            headers={"Content-Type": CONTENT_TYPE_LATEST},
        )

    @web.middleware
    async def _boundary(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Binds who calls, makes the answer of whatever the handler raised, and logs."""
        started = time.monotonic()
        # Requests of one connection share a task, so nothing may be left of the one before.
        call_context.bind_incoming({name.lower(): text for name, text in request.headers.items()})
        try:
            response = await handler(request)
        except web.HTTPException as error:
            response = _failure(error.status, error.reason)
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except RpcError as error:
            response = _failure(_STATUS.get(error.reason, 503), error.message, error.reason)
        except Exception:
            _log.exception("http_failed", method=request.method, path=request.path)
            response = _failure(500, "internal error", Reason.INTERNAL)
        response.headers["X-Request-Id"] = call_context.request_id.get()
        log = _log.debug if response.status < 400 else _log.info
        log(
            "http_finished",
            method=request.method,
            path=request.path,
            status=response.status,
            duration_ms=round((time.monotonic() - started) * 1000, 1),
        )
        return response


async def _read(request: web.Request) -> bytes:
    # One that says so beforehand need not be read to be refused.
    if request.content_length is not None and request.content_length > MOST_BYTES:
        raise web.HTTPRequestEntityTooLarge(MOST_BYTES)
    async with asyncio.timeout(_BODY_TIMEOUT):
        return await request.read()


def _failure(status: int, error: str, reason: str = "") -> web.Response:
    response = web.json_response({"error": error, "reason": reason}, status=status)
    if status == 503:
        response.headers["Retry-After"] = "1"
    if reason == Reason.UNAUTHENTICATED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _stopping() -> RpcError:
    return RpcError("the server is stopping", code=code_pb2.UNAVAILABLE, reason="STOPPING")


def _ssl_context(tls: ServerTls) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tls.certificate, tls.private_key)
    if tls.client_ca is not None:
        context.load_verify_locations(tls.client_ca)
        # Stripe has no certificate for us; who asks for metrics must have one.
        context.verify_mode = ssl.CERT_OPTIONAL
    return context
