"""Webhooks by HTTP, whose headers are checked before their bodies are read."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import unquote

from aiohttp import HttpVersion11, hdrs, web

from pipesync_rpc import context as call_context
from pipesync_rpc.errors import RpcError
from service_server.errors import DeliveryTooLarge, PipelineNotFound, WebhooksNotTaken
from service_server.http.body_memory import BodyMemory, Holding
from service_server.http.connections import HttpConnection, Phase
from service_server.http.limits import HttpLimits
from service_server.http.parser import MALFORMED_TEXT
from service_server.metrics import Metrics
from service_server.webhooks.receiver import MOST_BYTES, WebhookReceiver

# Prefix of the path, before the id of the pipeline.
PATH = "/webhooks/"
_INGRESS = "http"


class Deliveries:
    """Answers requests that deliver webhooks."""

    def __init__(
        self, receiver: WebhookReceiver, metrics: Metrics, memory: BodyMemory, limits: HttpLimits
    ) -> None:
        self._receiver = receiver
        self._metrics = metrics
        self._memory = memory
        self._limits = limits

    async def answer(
        self, request: web.BaseRequest, connection: HttpConnection, client: str
    ) -> web.Response:
        """Receive a webhook from the address ``client``, and answer the request.

        Raises:
            web.HTTPException: The path is invalid, or the body does not arrive.
            TooManyDeliveries: A limit of this process is reached.
            RpcError: See ``WebhookReceiver.receive``.
        """
        pipeline_id = unquote(request.rel_url.raw_path.removeprefix(PATH))
        if not pipeline_id or "/" in request.rel_url.raw_path.removeprefix(PATH):
            raise web.HTTPNotFound
        call_context.bind(pipeline_id=pipeline_id)
        headers = {name.lower(): value for name, value in request.headers.items()}
        refuse_expectation(request)
        self._work(connection, client)
        with _hiding(pipeline_id):
            await self._receiver.admit(pipeline_id, headers, ingress=_INGRESS, caller=client)
        connection.enter(Phase.BODY)
        with self._memory.holding(client, connection.abort) as holding:
            with self._counting():
                body = await self._body(request, holding)
            self._work(connection, client)
            with _hiding(pipeline_id):
                receipt = await self._receiver.receive(
                    pipeline_id, body, headers, ingress=_INGRESS, caller=client
                )
        return web.json_response({"event_id": receipt.event_id, "duplicate": receipt.is_duplicate})

    def _work(self, connection: HttpConnection, client: str) -> None:
        with self._counting():
            connection.work(client)

    @contextmanager
    def _counting(self) -> Iterator[None]:
        """Count deliveries that are refused before the receiver sees them."""
        try:
            yield
        except RpcError as error:
            self._metrics.count_refused_delivery(_INGRESS, error)
            raise

    async def _body(self, request: web.BaseRequest, holding: Holding) -> bytes:
        # A large Content-Length is refused before the body is read.
        if (request.content_length or 0) > MOST_BYTES:
            raise DeliveryTooLarge(MOST_BYTES)
        if hdrs.EXPECT in request.headers:
            await _ask_for_body(request)
        pieces: list[bytes] = []
        try:
            async with asyncio.timeout(self._limits.body_timeout):
                while piece := await request.content.readany():
                    holding.grow(len(piece))
                    pieces.append(piece)
                    if holding.size > MOST_BYTES:
                        raise DeliveryTooLarge(MOST_BYTES)
        except TimeoutError:
            raise web.HTTPRequestTimeout from None
        except web.RequestPayloadError:
            raise web.HTTPBadRequest(reason=MALFORMED_TEXT) from None
        except ConnectionError:
            raise web.HTTPBadRequest(reason="the body broke off") from None
        holding.finish()
        return b"".join(pieces)


@contextmanager
def _hiding(pipeline_id: str) -> Iterator[None]:
    """Hide from the sender whether a pipeline that takes no webhooks exists.

    The sender is not authenticated. The log and the metrics, which the receiver writes before,
    distinguish the two cases.
    """
    try:
        yield
    except WebhooksNotTaken:
        raise PipelineNotFound(pipeline_id) from None


def refuse_expectation(request: web.BaseRequest) -> None:
    """Refuse an Expect header other than 100-continue.

    Raises:
        web.HTTPExpectationFailed: The header has another value, which the error does not show,
            because it may be no text.
    """
    if request.headers.get(hdrs.EXPECT, "100-continue").lower() != "100-continue":
        raise web.HTTPExpectationFailed


async def _ask_for_body(request: web.BaseRequest) -> None:
    """Answer Expect: 100-continue, so that the client sends the body."""
    if request.version >= HttpVersion11:
        # The read of the body reports a lost connection.
        with suppress(ConnectionError):
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # As the framework does: these bytes are not part of the final response.
        request.writer.output_size = 0
