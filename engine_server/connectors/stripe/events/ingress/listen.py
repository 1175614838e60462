"""Listening: reads a history while the event ingresses are open, then applies events."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import partial

import structlog

from engine_server.connectors.protocols import Messages, ReadRequest
from engine_server.connectors.stripe.account import Account
from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.events.dead_letter import dead_letter
from engine_server.connectors.stripe.events.event_batches import record_batches
from engine_server.connectors.stripe.events.failure import EventFailed
from engine_server.connectors.stripe.events.ingress.event_queue import EventQueue, QueuedEvent
from engine_server.connectors.stripe.events.ingress.event_tasks import EventTasks
from engine_server.connectors.stripe.events.ingress.webhook_listener import WebhookListener
from engine_server.connectors.stripe.events.ingress.websocket import CliWebSocket
from engine_server.connectors.stripe.events.intervals import ListeningIntervals
from engine_server.connectors.stripe.events.scope import EventScope
from engine_server.connectors.stripe.records import StreamRecord
from pipesync.v1.message_pb2 import Message

_log = structlog.get_logger(__name__)

_MOST_AT_ONCE = 100
_USUAL_INTERVALS = ListeningIntervals()


async def listen(
    client: StripeClient,
    config: StripeConfig,
    request: ReadRequest,
    account: Account,
    *,
    history: Messages,
    poll: Callable[[int], Messages] | None = None,
    intervals: ListeningIntervals = _USUAL_INTERVALS,
) -> AsyncGenerator[Message, None]:
    """Yield the history, then the records of events as they arrive, until it is closed.

    The ingresses open before the history begins: events that arrive while it is read are queued,
    and applied after it. An event is acknowledged once its records are committed, and never
    otherwise.

    Args:
        client: Sends the requests.
        config: Names the ingresses.
        request: The read.
        account: The account of the events.
        history: The messages of the history; closed here.
        poll: Called with Stripe's current Unix second at intervals; its messages are yielded in
            between.
        intervals: The intervals and timeouts.

    Raises:
        ConnectionFailed: An ingress cannot be opened, or Stripe refuses the key or is unreachable.
        ConnectorError: Raised by the history or the poll.
    """
    queue = EventQueue(intervals)
    async with AsyncExitStack() as open_ways, aclosing(history):
        if config.webhook_port is not None:
            await open_ways.enter_async_context(
                WebhookListener(config.webhook_port, config.webhook_secrets, queue, intervals)
            )
        if config.websocket:
            await open_ways.enter_async_context(CliWebSocket(client, config, queue, intervals))
        # Senders get their acknowledgement before their ingress is closed.
        open_ways.callback(queue.close)
        async for message in history:
            yield message
        request.on_listening()
        streams = request.selected or request.streams
        scope = EventScope.of(config, account, streams, request.stored_rows, request.barriers)
        async with EventTasks(client, scope, queue.wake) as tasks:
            follow = _Follow(request, queue, tasks, intervals, client.clock.second)
            async with aclosing(follow.messages(poll)) as messages:
                async for message in messages:
                    yield message


class _Follow:
    """Applies the events of one read."""

    def __init__(
        self,
        request: ReadRequest,
        queue: EventQueue,
        tasks: EventTasks,
        intervals: ListeningIntervals,
        now: Callable[[], int],
    ) -> None:
        self._now = now
        self._request = request
        self._queue = queue
        self._tasks = tasks
        self._intervals = intervals

    async def messages(
        self, poll: Callable[[int], Messages] | None
    ) -> AsyncGenerator[Message, None]:
        loop = asyncio.get_running_loop()
        next_poll = loop.time() + self._intervals.poll_interval
        while True:
            wait = None if poll is None else max(0.0, next_poll - loop.time())
            for message in await self._next(at_most=wait):
                yield message
            if poll is None or loop.time() < next_poll:
                continue
            async with aclosing(poll(self._now())) as polled:
                async for message in polled:
                    yield message
                    # A long poll must not delay events.
                    if self._queue.has_events:
                        for applied in await self._next(at_most=0):
                            yield applied
            next_poll = loop.time() + self._intervals.poll_interval

    async def _next(self, *, at_most: float | None) -> list[Message]:
        """Return the messages of finished events, last the barrier that acknowledges them."""
        self._tasks.begin(await self._queue.take(_MOST_AT_ONCE - len(self._tasks), at_most=at_most))
        records: list[StreamRecord] = []
        applied: list[tuple[QueuedEvent, frozenset[str]]] = []
        given_up: list[Message] = []
        for queued, outcome in await self._tasks.finished(self._intervals.work_patience):
            if isinstance(outcome, EventFailed):
                tries = self._queue.defer(queued, outcome)
                if tries is not None:
                    given_up.append(
                        dead_letter(queued.body, attempts=tries, reason=outcome.message)
                    )
            elif isinstance(outcome, RequestFailed):
                self._queue.defer(queued, outcome, counts=False)
            else:
                records += outcome
                applied.append((queued, frozenset(stream for stream, _ in outcome)))
        messages = [
            message
            for message in record_batches(records)
            if message.record_batch.stream not in self._request.errored_streams
        ]
        messages += [*self._tasks.skipped.reports(), *given_up]
        if applied:
            messages.append(self._request.barriers.put(partial(self._acknowledge, applied)))
        return messages + self._tasks.take_barriers()

    def _acknowledge(self, applied: Sequence[tuple[QueuedEvent, frozenset[str]]]) -> None:
        for queued, streams in applied:
            errored = streams & self._request.errored_streams.names
            self._queue.resolve(queued, committed=not errored)
            if errored:
                _log.warning("event_not_committed", event_id=queued.id, streams=sorted(errored))
