"""Intervals and timeouts of listening for events."""

from dataclasses import dataclass

from pipesync_rpc.backoff import backoff_delay


@dataclass(frozen=True, slots=True, kw_only=True)
class ListeningIntervals:
    """Intervals and timeouts in seconds.

    Attributes:
        poll_interval: The interval between two polls.
        answer_within: How long a webhook request waits for its commit before it is told to retry.
            Stripe's own timeout is not documented; it is on the order of tens of seconds.
        work_patience: How long processing one event may delay the others of its group.
        first_put_off: The first delay of an event that failed; it doubles with each failure.
        longest_put_off: The longest such delay.
        ping_interval: The interval between two pings of a WebSocket.
        pong_patience: How long a WebSocket may be silent.
        connect_interval: The delay before another attempt to connect a WebSocket.
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

    def deferral(self, tries: int) -> float:
        """Return the delay of an event after this many attempts (from 1)."""
        return backoff_delay(
            tries, first=self.first_put_off, longest=self.longest_put_off, jitter=0
        )
