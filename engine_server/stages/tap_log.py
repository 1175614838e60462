"""Writes what connectors log into the engine's own log, and passes everything on."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator

import structlog
from google.protobuf.json_format import MessageToDict

from pipesync.v1.message_pb2 import Log, Message

log = structlog.get_logger()

LEVELS = {
    Log.LEVEL_DEBUG: logging.DEBUG,
    Log.LEVEL_INFO: logging.INFO,
    Log.LEVEL_WARN: logging.WARNING,
    Log.LEVEL_ERROR: logging.ERROR,
}


async def tap_log(
    messages: AsyncIterator[Message], emitted_by: str
) -> AsyncGenerator[Message, None]:
    """Yields every message; a log message of ``emitted_by`` becomes one event ``connector_log``.

    An event that it gives up becomes one event ``event_dead_lettered``.
    """
    async for message in messages:
        if message.HasField("dead_letter") and message.emitted_by == emitted_by:
            letter = message.dead_letter
            log.error(
                "event_dead_lettered",
                event_id=letter.event_id,
                event_type=letter.event_type,
                attempts=letter.attempt_count,
                error=letter.reason,
            )
        if message.HasField("log") and message.emitted_by == emitted_by:
            log.log(
                LEVELS.get(message.log.level, logging.INFO),
                "connector_log",
                emitted_by=message.emitted_by,
                message=message.log.message,
                data=MessageToDict(message.log.data),
            )
        yield message
