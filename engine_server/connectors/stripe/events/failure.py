"""Failures of single events."""

from engine_server.errors import ConnectorError


class EventFailed(ConnectorError):
    """One event cannot be applied, for a reason of its own.

    It is retried as often as its ingress allows, then dead-lettered. The other events are applied.
    """


class StreamRefused(ConnectorError):
    """The key or the account may not read objects of the event's type.

    The events of its stream are skipped, like its list.

    Attributes:
        stream: The name of the stream.
    """

    def __init__(self, stream: str, reason: str) -> None:
        """Store the stream and Stripe's message as the reason."""
        super().__init__(reason)
        self.stream = stream
