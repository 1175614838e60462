"""Events of one read that failed, kept apart from those that are applied."""

from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from engine_server.connectors.stripe.api.errors import FailureScope, RequestFailed
from engine_server.connectors.stripe.events.failure import EventFailed, StreamRefused
from engine_server.connectors.stripe.records import StreamRecord
from engine_server.errors import ConnectionFailed, ConnectorError
from pipesync.v1.message_pb2 import Log, Message

_log = structlog.get_logger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedEvent(Generic[T]):
    """An event that failed for a reason of its own.

    Attributes:
        sent: The event, as it was given.
        reason: The reason of the failure.
    """

    sent: T
    reason: str


class SkippedStreams:
    """The streams whose events one read skips; each is reported once."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._unreported: list[Message] = []

    def add(self, refused: StreamRefused) -> None:
        """Record that an event of a stream was skipped."""
        if refused.stream in self._known:
            return
        self._known.add(refused.stream)
        text = f"events of stream {refused.stream} are skipped, as it may not be read: {refused}"
        self._unreported.append(Message(log=Log(level=Log.LEVEL_WARN, message=text)))

    def reports(self) -> Iterator[Message]:
        """Yield the warnings that were not yielded before."""
        reports, self._unreported = self._unreported, []
        yield from reports


class FailedEvents(Generic[T]):
    """The events of one read that were not applied, each with its reason.

    Attributes:
        skipped: The streams whose events are skipped.
    """

    def __init__(self, skipped: SkippedStreams | None = None) -> None:
        """Start empty, with the read's ``skipped`` if it has one already."""
        self.skipped = skipped or SkippedStreams()
        self._failed: list[FailedEvent[T]] = []

    def add(self, sent: T, reason: str) -> None:
        """Add an event that failed."""
        self._failed.append(FailedEvent(sent=sent, reason=reason))

    def take(self) -> list[FailedEvent[T]]:
        """Return the events that failed since the last call, in their order."""
        failed, self._failed = self._failed, []
        return failed


async def attempt(
    making: Awaitable[list[StreamRecord]], skipped: SkippedStreams
) -> list[StreamRecord] | EventFailed:
    """Return the records of one event, or its own failure.

    Events of streams that may not be read make no records.

    Args:
        making: Makes the records, e.g. ``process_event``.
        skipped: Records the events that are skipped.

    Raises:
        ConnectionFailed: Stripe refuses the key, fails, or is unreachable: no failure of the event.
        ConnectorError: The destination cannot be queried.
    """
    try:
        return await making
    except EventFailed as error:
        return error
    except StreamRefused as error:
        skipped.add(error)
        return []
    except RequestFailed as error:
        if error.scope is FailureScope.OBJECT:
            return EventFailed(error.message)
        raise ConnectionFailed(error.message) from error
    except ConnectorError:
        raise
    except Exception as error:
        # The event has an unexpected shape, which must not stop the others.
        _log.exception("event_threw")
        kind = type(error).__name__
        return EventFailed(f"it could not be processed ({kind}); the engine's log has the details")
