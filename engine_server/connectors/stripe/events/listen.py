"""Reads a history while the ways in for events are open, and then goes on with what comes."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import partial

import structlog

from engine_server.connectors.protocols import Messages, ReadRequest
from engine_server.connectors.stripe.account import Account
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.errors import RequestFailed
from engine_server.connectors.stripe.events.dead_letter import dead_letter
from engine_server.connectors.stripe.events.failure import EventFailed
from engine_server.connectors.stripe.events.inbox import Inbox, Waiting
from engine_server.connectors.stripe.events.listener import WebhookListener
from engine_server.connectors.stripe.events.pace import ListeningPace
from engine_server.connectors.stripe.events.process_event import record_batches
from engine_server.connectors.stripe.events.records import StreamRecord
from engine_server.connectors.stripe.events.scope import EventScope
from engine_server.connectors.stripe.events.websocket import CliWebSocket
from engine_server.connectors.stripe.events.work import Work
from pipesync.v1.message_pb2 import Message

log = structlog.get_logger()

_MOST_AT_ONCE = 100
_USUAL_PACE = ListeningPace()


async def listen(
    client: StripeClient,
    config: StripeConfig,
    request: ReadRequest,
    account: Account,
    *,
    history: Messages,
    poll: Callable[[int], Messages] | None = None,
    pace: ListeningPace = _USUAL_PACE,
) -> AsyncGenerator[Message, None]:
    """Yields the history, then the records of events as they come, until it is closed.

    The ways in are open before the history begins: what happens while it is read waits, and is
    applied behind it. An event is acknowledged once its records are committed, and never when they
    cannot be.

    Args:
        client: The way to Stripe.
        config: Which ways in there are.
        request: What is read.
        account: Whose events are wanted.
        history: What comes first; closed here.
        poll: Called with Stripe's present Unix second every so often; what it yields goes in
            between.
        pace: How often, and how patiently.

    Raises:
        ConnectionFailed: A way in cannot be opened, or Stripe refuses the key or is out of reach.
        ConnectorError: What the history raises, or the poll.
    """
    inbox = Inbox(pace)
    async with AsyncExitStack() as open_ways, aclosing(history):
        if config.webhook_port is not None:
            await open_ways.enter_async_context(
                WebhookListener(config.webhook_port, config.webhook_secrets, inbox, pace)
            )
        if config.websocket:
            await open_ways.enter_async_context(CliWebSocket(client, config, inbox, pace))
        # Whoever waits for an answer gets it before the way is closed.
        open_ways.callback(inbox.close)
        async for message in history:
            yield message
        request.on_listening()
        streams = request.selected or request.streams
        scope = EventScope.of(config, account, streams, request.inventory, request.barriers)
        async with Work(client, scope, inbox.wake) as work:
            follow = _Follow(request, inbox, work, pace, client.clock.second)
            async with aclosing(follow.messages(poll)) as messages:
                async for message in messages:
                    yield message


class _Follow:
    """What becomes of the events of one read."""

    def __init__(
        self,
        request: ReadRequest,
        inbox: Inbox,
        work: Work,
        pace: ListeningPace,
        now: Callable[[], int],
    ) -> None:
        self._now = now
        self._request = request
        self._inbox = inbox
        self._work = work
        self._pace = pace

    async def messages(
        self, poll: Callable[[int], Messages] | None
    ) -> AsyncGenerator[Message, None]:
        loop = asyncio.get_running_loop()
        next_poll = loop.time() + self._pace.poll_interval
        while True:
            wait = None if poll is None else max(0.0, next_poll - loop.time())
            for message in await self._next(at_most=wait):
                yield message
            if poll is None or loop.time() < next_poll:
                continue
            async with aclosing(poll(self._now())) as polled:
                async for message in polled:
                    yield message
                    # A long poll keeps nobody waiting.
                    if self._inbox.has_events:
                        for applied in await self._next(at_most=0):
                            yield applied
            next_poll = loop.time() + self._pace.poll_interval

    async def _next(self, *, at_most: float | None) -> list[Message]:
        """The messages of events that are done, last the barrier that acknowledges them."""
        self._work.begin(await self._inbox.take(_MOST_AT_ONCE - len(self._work), at_most=at_most))
        records: list[StreamRecord] = []
        applied: list[tuple[Waiting, frozenset[str]]] = []
        given_up: list[Message] = []
        for waiting, outcome in await self._work.finished(self._pace.work_patience):
            if isinstance(outcome, EventFailed):
                tries = self._inbox.put_off(waiting, outcome)
                if tries is not None:
                    given_up.append(
                        dead_letter(waiting.body, attempts=tries, reason=outcome.message)
                    )
            elif isinstance(outcome, RequestFailed):
                self._inbox.put_off(waiting, outcome, counts=False)
            else:
                records += outcome
                applied.append((waiting, frozenset(stream for stream, _ in outcome)))
        messages = [
            message
            for message in record_batches(records)
            if message.record_batch.stream not in self._request.refused_streams
        ]
        messages += [*self._work.skipped.reports(), *given_up]
        if applied:
            messages.append(self._request.barriers.put(partial(self._acknowledge, applied)))
        return messages + self._work.take_barriers()

    def _acknowledge(self, applied: Sequence[tuple[Waiting, frozenset[str]]]) -> None:
        for waiting, streams in applied:
            refused = streams & self._request.refused_streams
            self._inbox.answer(waiting, committed=not refused)
            if refused:
                log.warning("event_not_committed", event_id=waiting.id, streams=sorted(refused))
