"""How often and how long things are tried while events are awaited."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ListeningPace:
    """Times in seconds.

    Attributes:
        poll_interval: Between two polls.
        answer_within: How long a webhook waits for its commit before it is told to come again.
            Stripe's own patience is not documented; it is a matter of tens of seconds.
        work_patience: How long what is done with an event may keep the others of its group waiting.
        first_put_off: How long an event that failed is put off; each time twice as long.
        longest_put_off: The most of that.
        ping_interval: Between two pings of a WebSocket.
        pong_patience: How long a WebSocket may say nothing.
        connect_interval: After a WebSocket could not be connected, before the next attempt.
    """

    poll_interval: float = 30.0
    answer_within: float = 30.0
    work_patience: float = 5.0
    first_put_off: float = 30.0
    longest_put_off: float = 600.0
    # https://github.com/stripe/stripe-cli, pkg/websocket/client.go: defaultPongWait, a fifth of it
    # between pings, and defaultConnectAttemptWait.
    ping_interval: float = 2.0
    pong_patience: float = 10.0
    connect_interval: float = 10.0

    def put_off(self, tries: int) -> float:
        """How long an event is put off after so many tries (from 1)."""
        return min(self.longest_put_off, self.first_put_off * 2.0 ** (tries - 1))
