"""Stage that annotates a connector's messages, and copies its logs to the engine's log."""

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator

import structlog
from google.protobuf.json_format import MessageToDict

from pipesync.v1.message_pb2 import Log, Message
from pipesync.v1.state_pb2 import DeadLetter

_log = structlog.get_logger(__name__)

LEVELS = {
    Log.LEVEL_DEBUG: logging.DEBUG,
    Log.LEVEL_INFO: logging.INFO,
    Log.LEVEL_WARN: logging.WARNING,
    Log.LEVEL_ERROR: logging.ERROR,
}


async def annotate_and_log(
    messages: AsyncIterator[Message], emitted_by: str
) -> AsyncGenerator[Message, None]:
    """Yield every message, with ``emitted_by`` and the current time where they are not set.

    Of the messages of ``emitted_by``, a log is logged as ``connector_log``, and a dead letter as
    ``event_dead_lettered``.
    """
    async for message in messages:
        if not message.emitted_by:
            message.emitted_by = emitted_by
        if not message.HasField("ts"):
            message.ts.FromNanoseconds(time.time_ns())
        if message.emitted_by == emitted_by:
            if message.HasField("log"):
                _copy_log(message.log, emitted_by)
            elif message.HasField("dead_letter"):
                _log_dead_letter(message.dead_letter)
        yield message


def _copy_log(line: Log, emitted_by: str) -> None:
    _log.log(
        LEVELS.get(line.level, logging.INFO),
        "connector_log",
        emitted_by=emitted_by,
        message=line.message,
        data=MessageToDict(line.data),
    )


def _log_dead_letter(letter: DeadLetter) -> None:
    _log.error(
        "event_dead_lettered",
        event_id=letter.event_id,
        event_type=letter.event_type,
        attempts=letter.attempt_count,
        error=letter.reason,
    )
