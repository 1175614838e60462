"""Stage that turns a connector's exception into the end of its messages."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import structlog

from engine_server.connectors.protocols import Messages
from engine_server.errors import ConnectionFailed, ConnectorError
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import ConnectionStatus

_log = structlog.get_logger(__name__)


async def contain_failure(
    start: Callable[[], Messages], connector: str, on_failure: Callable[[str], None]
) -> AsyncGenerator[Message, None]:
    """Yield a connector's messages; if it raises, end as if its messages had ended.

    Later stages thus finish: records that were read before a failure are still written and counted.
    A ``ConnectionFailed`` becomes a final ``connection_status``. For any other failure,
    ``on_failure`` gets a message for the caller: that of a ``ConnectorError``, else a fixed text,
    with the traceback in the log.

    Args:
        start: Calls the connector. The generator that it returns is closed at the end.
        connector: Name of the connector, e.g. ``source/stripe``.
        on_failure: Called at most once.
    """
    try:
        async with aclosing(start()) as messages:
            async for message in messages:
                yield message
    except ConnectionFailed as error:
        _log.warning("connection_failed", connector=connector, error=error.message)
        status = ConnectionStatus(status=ConnectionStatus.STATUS_FAILED, message=error.message)
        yield Message(connection_status=status)
    except ConnectorError as error:
        _log.warning("connector_failed", connector=connector, error=error.message)
        on_failure(error.message)
    except Exception as error:
        _log.exception("connector_threw", connector=connector)
        kind = type(error).__name__
        on_failure(f"{connector} stopped unexpectedly ({kind}); the engine's log has the details")
