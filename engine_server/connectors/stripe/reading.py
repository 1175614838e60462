"""One read of an account: its history, the events around it, and those that come afterwards."""

from contextlib import aclosing

from engine_server.connectors.protocols import Messages, ReadRequest
from engine_server.connectors.stripe.account import Account
from engine_server.connectors.stripe.backfill import backfill, is_guess, whole_seconds
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.clock import ServerClock
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.events.listen import listen
from engine_server.connectors.stripe.events.pace import ListeningPace
from engine_server.connectors.stripe.events.polling import Poller
from engine_server.errors import ConnectorError

# Seconds that a clock may be behind before it is first compared with Stripe's.
_UNKNOWN_SKEW = 86_400


def read_and_follow(
    client: StripeClient,
    config: StripeConfig,
    request: ReadRequest,
    account: Account,
    *,
    pace: ListeningPace,
) -> Messages:
    """Yields the history, then the events that ``poll_events`` asks for, then those that come.

    Args:
        client: The way to Stripe.
        config: How to follow it.
        request: What is read; it has no inputs.
        account: Whose objects.
        pace: How often and how long things are tried while it listens.

    Raises:
        ConnectionFailed: see ``StripeClient.get``.
        ConnectorError: a checkpoint is not one of this source, or events cannot be followed.
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
    return listen(client, config, request, account, history=history, poll=poll, pace=pace)


async def _history(
    client: StripeClient,
    config: StripeConfig,
    request: ReadRequest,
    account: Account,
    poller: Poller | None,
) -> Messages:
    """Yields the history, and around it what ``poll_events`` asks for."""
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
            poller.note(message)
            yield message
    async with aclosing(poller.poll(_end(request, client.clock))) as messages:
        async for message in messages:
            yield message


def _end(request: ReadRequest, clock: ServerClock) -> int:
    """The Unix second up to which events count, exclusive."""
    if request.until is None:
        return clock.second() + 1
    end = whole_seconds(request.until)
    if not is_guess(request.until, clock):
        return end
    # By a clock that is behind, none of the events since the last poll would count, for ever.
    return max(end, clock.second() + 1) if clock.is_known else end + _UNKNOWN_SKEW
