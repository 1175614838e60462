"""The failure of one event."""

from engine_server.errors import ConnectorError


class EventFailed(ConnectorError):
    """One event cannot be applied, for a reason of its own.

    It is tried again with the attempts of its way in, then dead-lettered; the events around it are
    applied.
    """
