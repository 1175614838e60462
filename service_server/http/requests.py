"""Requests of the HTTP server."""

import asyncio

from aiohttp import StreamReader, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion10, RawRequestMessage

from service_server.http.parser import MALFORMED


class HttpRequest(web.BaseRequest):
    """A request whose response does not name the framework and its version."""

    @property
    def is_malformed(self) -> bool:
        """Whether the request could not be parsed."""
        return self._message is MALFORMED

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        """Remove the header that the framework adds to each response."""
        response.headers.pop(hdrs.SERVER, None)


def make_request(
    message: RawRequestMessage,
    content: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> HttpRequest:
    """Return a request, with HTTP/1.0 as the least version.

    A request without a version would be of HTTP/0.9, whose responses have no head.
    """
    if message.version < HttpVersion10:
        message = message._replace(version=HttpVersion10, should_close=True)
    return HttpRequest(message, content, protocol, writer, task, asyncio.get_running_loop())
