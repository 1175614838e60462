"""Turns a connector's exception into the end of its messages, so that later stages finish."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable

import structlog

from engine_server.errors import ConnectionFailed, ConnectorError
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import ConnectionStatus

log = structlog.get_logger()


async def contain_failure(
    messages: AsyncIterator[Message], connector: str, on_failure: Callable[[str], None]
) -> AsyncGenerator[Message, None]:
    """Yields ``messages``; when they raise, ends as if they had ended.

    What was read before a failure is thereby still written and accounted for. A failed connection
    becomes a last connection_status; any other failure is told to ``on_failure`` in words for the
    caller: the connector's own, when it chose them, else a fixed text, the traceback being in the
    log.

    Args:
        messages: What the connector yields.
        connector: Who it is, e.g. ``source/stripe``.
        on_failure: Called at most once.
    """
    try:
        async for message in messages:
            yield message
    except ConnectionFailed as error:
        log.warning("connection_failed", connector=connector, error=error.message)
        status = ConnectionStatus(status=ConnectionStatus.STATUS_FAILED, message=error.message)
        yield Message(connection_status=status)
    except ConnectorError as error:
        log.warning("connector_failed", connector=connector, error=error.message)
        on_failure(error.message)
    except Exception as error:
        log.exception("connector_threw", connector=connector)
        kind = type(error).__name__
        on_failure(f"{connector} stopped unexpectedly ({kind}); the engine's log has the details")
