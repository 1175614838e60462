"""One read of an account: its history, the polled events, and the events that arrive."""

from contextlib import aclosing

from engine_server.connectors.protocols import Messages, ReadRequest
from engine_server.connectors.stripe.account import Account
from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.clock import ServerClock
from engine_server.connectors.stripe.backfill.backfill import backfill, is_guess, whole_seconds
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.events.ingress.listen import listen
from engine_server.connectors.stripe.events.intervals import ListeningIntervals
from engine_server.connectors.stripe.events.polling.poll import Poller
from engine_server.errors import ConnectorError

# The most seconds that a clock may be behind before it is compared with Stripe's.
_UNKNOWN_SKEW = 86_400


def read_and_follow(
    client: StripeClient,
    config: StripeConfig,
    request: ReadRequest,
    account: Account,
    *,
    intervals: ListeningIntervals,
) -> Messages:
    """Yield the history, then the polled events, then the events that arrive.

    Args:
        client: Sends the requests.
        config: The ways to receive events.
        request: The read, without inputs.
        account: The account to read.
        intervals: Intervals and timeouts of listening.

    Raises:
        ConnectionFailed: See ``StripeClient.get``.
        ConnectorError: A checkpoint is not one of this source, or events cannot be read.
    """
    poller = Poller(client, config, request, account) if config.poll_events else None
    history = _history(client, config, request, account, poller)
    if not request.listen or not (config.websocket or config.webhook_port is not None):
        return history
    if config.webhook_port is not None and not config.webhook_secrets:
        raise ConnectorError(
            "webhook_secret is not known yet: setup registers webhook_url at Stripe, and stores it"
        )
    poll = poller.poll if poller is not None else None
    return listen(client, config, request, account, history=history, poll=poll, intervals=intervals)


async def _history(
    client: StripeClient,
    config: StripeConfig,
    request: ReadRequest,
    account: Account,
    poller: Poller | None,
) -> Messages:
    """Yield the history, with the polled events if ``poll_events`` is set."""
    if poller is None:
        if request.events_only:
            raise ConnectorError("to read events alone, poll_events must be on")
        async with aclosing(backfill(client, config, request, account)) as messages:
            async for message in messages:
                yield message
        return
    async with aclosing(poller.begin()) as messages:
        async for message in messages:
            yield message
    async with aclosing(backfill(client, config, poller.history, account)) as messages:
        async for message in messages:
            poller.observe(message)
            yield message
    async with aclosing(poller.poll(_end(request, client.clock))) as messages:
        async for message in messages:
            yield message


def _end(request: ReadRequest, clock: ServerClock) -> int:
    """Return the end of the polled events in Unix seconds, exclusive."""
    if request.until is None:
        return clock.second() + 1
    end = whole_seconds(request.until)
    if not is_guess(request.until, clock):
        return end
    # With a clock that is behind, no event since the last poll would ever be read.
    return max(end, clock.second() + 1) if clock.is_known else end + _UNKNOWN_SKEW
