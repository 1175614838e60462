"""Turns a connector's exception into the end of its messages, so that later stages finish."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import structlog

from engine_server.connectors.protocols import Messages
from engine_server.errors import ConnectionFailed, ConnectorError
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import ConnectionStatus

log = structlog.get_logger()


async def contain_failure(
    start: Callable[[], Messages], connector: str, on_failure: Callable[[str], None]
) -> AsyncGenerator[Message, None]:
    """Yields what a connector yields; when it raises, ends as if that had ended.

    What was read before a failure is thereby still written and accounted for. A failed connection
    becomes a last connection_status; any other failure is told to ``on_failure`` in words for the
    caller: the connector's own, when it chose them, else a fixed text, the traceback being in the
    log.

    Args:
        start: Calls the connector. What it returns is closed in the end.
        connector: Who it is, e.g. ``source/stripe``.
        on_failure: Called at most once.
    """
    try:
        async with aclosing(start()) as messages:
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
