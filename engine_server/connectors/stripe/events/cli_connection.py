"""One WebSocket connection of a session of the Stripe CLI's: opened, kept alive, and given up.

Rules: https://github.com/stripe/stripe-cli, pkg/websocket/client.go: the headers and the query of
``connect``, the pings of ``writePump``, the patience of ``readPump``, the reset of ``Run``.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import aiohttp
from yarl import URL

from engine_server import exact_json
from engine_server.connectors.stripe.client import IDENTITY
from engine_server.connectors.stripe.events.cli_session import CliSession
from engine_server.connectors.stripe.events.pace import ListeningPace
from engine_server.connectors.stripe.proxy import proxy_for

_SUBPROTOCOL = "stripecli-devproxy-v1"
_EXPIRED = "Unknown WebSocket ID."
_SWITCHING_PROTOCOLS = 101
_TOO_MANY_REQUESTS = 429
_CONNECT_WITHIN = 10.0
_CLOSE_WITHIN = 0.3


class NotConnected(Exception):
    """The connection did not come about."""


class SessionExpired(NotConnected):
    """Nor will any other one of this session."""


class _Refused(Exception):
    """The answer to a handshake, other than that the protocol is switched."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


def websocket_client() -> aiohttp.ClientSession:
    """What connections are opened with; the caller closes it."""
    return aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_WITHIN),
        middlewares=(_tell_refusal,),
    )


async def connect(
    http: aiohttp.ClientSession, session: CliSession, *, plain: bool
) -> aiohttp.ClientWebSocketResponse:
    """Opens a connection; the caller closes it.

    Args:
        http: See ``websocket_client``.
        session: Whose events are wanted.
        plain: Whether to speak without TLS, as with an API without it.

    Raises:
        SessionExpired: The session is known no more.
        NotConnected: It failed otherwise.
        ConnectionFailed: the environment names a proxy that cannot be used.
    """
    try:
        url = URL(session.url).update_query(websocket_feature=session.feature)
        # A proxy knows what to do with http:// and https://, and they mean the same.
        url = url.with_scheme("http" if plain or url.scheme in ("ws", "http") else "https")
    except ValueError:
        raise NotConnected(f"{session.url!r} is no address") from None
    proxy = proxy_for(str(url))
    headers = {"Accept-Encoding": "identity", "Websocket-Id": session.id, **IDENTITY}
    if proxy is not None and url.scheme == "http":
        headers |= proxy.headers
    try:
        async with asyncio.timeout(_CONNECT_WITHIN):
            return await http.ws_connect(
                url,
                protocols=(_SUBPROTOCOL,),
                headers=headers,
                # Pongs are looked at here: they are a sign of life.
                autoping=False,
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_WITHIN),
                proxy=proxy.url if proxy else None,
                proxy_headers=proxy.headers if proxy else None,
            )
    except _Refused as refusal:
        # An id that is refused, for whatever reason, will be refused again.
        is_of_client = 400 <= refusal.status < 500 and refusal.status != _TOO_MANY_REQUESTS
        if refusal.message == _EXPIRED or is_of_client:
            raise SessionExpired(str(refusal)) from None
        raise NotConnected(str(refusal)) from None
    except TimeoutError:
        raise NotConnected(f"no answer within {_CONNECT_WITHIN:g} seconds") from None
    except (aiohttp.ClientError, OSError) as error:
        raise NotConnected(f"{type(error).__name__}: {error}") from None


class Talk:
    """What is said on a connection, by both sides."""

    def __init__(self, pace: ListeningPace) -> None:
        self._pace = pace
        # What is not said yet waits for the next connection.
        self._unsaid: deque[str] = deque()
        self._has_unsaid = asyncio.Event()

    def say(self, message: str) -> None:
        """Has a message sent as soon as there is a connection."""
        self._unsaid.append(message)
        self._has_unsaid.set()

    def forget(self) -> None:
        """Leaves unsaid what was not sent yet: nobody is there any more who knew what it means."""
        self._unsaid.clear()

    async def go_on(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        hear: Callable[[bytes], Awaitable[None]],
        *,
        reset_after: float,
    ) -> str:
        """Talks until the connection is lost, or until it is time for another one.

        Args:
            socket: An open connection; it is closed in the end.
            hear: Called with each message; while it takes its time, nothing more is read.
            reset_after: In how many seconds that is.

        Returns:
            Why it ended.
        """
        speaking = asyncio.create_task(self._speak(socket))
        try:
            return await self._listen(socket, hear, reset_after)
        except (aiohttp.ClientError, ConnectionError) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)
            await socket.close()

    async def _listen(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        hear: Callable[[bytes], Awaitable[None]],
        reset_after: float,
    ) -> str:
        loop = asyncio.get_running_loop()
        reset_at = loop.time() + reset_after
        while (left := reset_at - loop.time()) > 0:
            try:
                message = await socket.receive(timeout=min(left, self._pace.pong_patience))
            except TimeoutError:
                if loop.time() >= reset_at:
                    break
                return f"it said nothing for {self._pace.pong_patience:g} seconds"
            match message.type:
                case aiohttp.WSMsgType.TEXT:
                    await hear(message.data.encode())
                case aiohttp.WSMsgType.PING:
                    await socket.pong(message.data)
                case aiohttp.WSMsgType.PONG | aiohttp.WSMsgType.BINARY:
                    pass
                case _:
                    return "it was closed"
        return ""

    async def _speak(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        loop = asyncio.get_running_loop()
        next_ping = loop.time() + self._pace.ping_interval
        while True:
            if loop.time() >= next_ping:
                await socket.ping()
                next_ping = loop.time() + self._pace.ping_interval
            while self._unsaid:
                await socket.send_str(self._unsaid[0])
                self._unsaid.popleft()
            self._has_unsaid.clear()
            try:
                async with asyncio.timeout_at(next_ping):
                    await self._has_unsaid.wait()
            except TimeoutError:
                continue


async def _tell_refusal(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Reads why a handshake was refused, which aiohttp throws away."""
    response = await send(request)
    if response.status == _SWITCHING_PROTOCOLS:
        return response
    try:
        error = exact_json.decode(await response.read())["error"]
        message = str(error["message"])
    except (ValueError, TypeError, KeyError):
        message = response.reason or ""
    finally:
        response.release()
    raise _Refused(response.status, message)
