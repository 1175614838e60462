"""The failure of one event."""

from engine_server.errors import ConnectorError


class EventFailed(ConnectorError):
    """One event cannot be applied, for a reason of its own.

    It is tried again with the attempts of its way in, then dead-lettered; the events around it are
    applied.
    """


class StreamRefused(ConnectorError):
    """An event is about an object of a type that the key or the account may not read.

    Its stream's events are skipped, as its list is.

    Attributes:
        stream: The name of the stream.
    """

    def __init__(self, stream: str, reason: str) -> None:
        """``reason`` is in Stripe's words."""
        super().__init__(reason)
        self.stream = stream
