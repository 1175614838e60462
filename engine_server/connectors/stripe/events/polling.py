"""Follows an account's events by asking for them, from the start of a backfill on."""

import asyncio
import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from itertools import islice

import structlog

from engine_server.connectors.protocols import Messages, ReadRequest
from engine_server.connectors.stripe.account import Account
from engine_server.connectors.stripe.backfill import untouched_checkpoint
from engine_server.connectors.stripe.checkpoint import accounts_for_nothing
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.errors import FailureScope, RequestFailed
from engine_server.connectors.stripe.events.cursor import (
    KEPT_DAYS,
    MOST_REASON_CHARACTERS,
    OVERLAP,
    EventCursor,
    FailingEvent,
)
from engine_server.connectors.stripe.events.dead_letter import bare_event, dead_letter
from engine_server.connectors.stripe.events.event_pages import (
    EventsUnreadable,
    fetch_event,
    fetch_events,
)
from engine_server.connectors.stripe.events.event_windows import AHEAD, EventWindows
from engine_server.connectors.stripe.events.failed_events import FailedEvent, FailedEvents
from engine_server.connectors.stripe.events.poll_round import PollRound
from engine_server.connectors.stripe.events.polled_events import (
    ChosenEvent,
    apply_events,
    chosen_events,
    retried_events,
)
from engine_server.connectors.stripe.events.same_second import SameSecond
from engine_server.connectors.stripe.events.scope import EventScope
from engine_server.dead_letters import DeadLetterCount
from engine_server.errors import ConnectionFailed, ConnectorError
from pipesync.v1.message_pb2 import Log, Message, StateCheckpoint
from pipesync.v1.state_pb2 import SourceState

log = structlog.get_logger()

# How many events are worked on before those of them that failed are looked at.
_EVENTS_AT_ONCE = 100


class Poller:
    """The events of one read: ``begin`` before its history, ``poll`` after it, perhaps often."""

    def __init__(
        self, client: StripeClient, config: StripeConfig, request: ReadRequest, account: Account
    ) -> None:
        """Begins where the checkpoint of all streams is.

        Raises:
            ConnectorError: that is not an events cursor.
        """
        self._client = client
        self._request = request
        streams = request.selected or request.streams
        self._scope = EventScope.of(config, account, streams, request.inventory, request.barriers)
        self._state = SourceState()
        self._state.CopyFrom(request.state)
        self._cursor = EventCursor.parse(getattr(request.state, "global"))
        # Where the next request would begin, as far as was yielded.
        self._told = self._cursor
        # All records up to here are committed, those of streams that will be refused included.
        self._committed = self._cursor
        self._has_uncommitted = False
        # A checkpoint was told that may come to nothing.
        self._is_unsure = False
        self._states_left = request.state_limit
        self._failed: FailedEvents[ChosenEvent] = FailedEvents()
        # Whose events were applied since the last checkpoint, and what was given up since.
        self._news: set[str] = set()
        self._given_up = DeadLetterCount()

    @property
    def history(self) -> ReadRequest:
        """The request as the history is to be read once ``begin`` is over."""
        return dataclasses.replace(self._request, state=self._state, state_limit=self._states_left)

    def note(self, message: Message) -> None:
        """Takes in another message of the read: the rest of ``state_limit`` depends on it."""
        if message.HasField("record_batch"):
            self._has_uncommitted = True
        if message.HasField("source_state") and self._states_left is not None:
            self._states_left -= 1

    async def begin(self) -> Messages:
        """Yields what has to come before the history: that from here on, events are followed.

        A stream that was not followed before is read from the start again, as events of it may have
        been missed. Nothing is yielded when no history is to be read.

        Raises:
            EventsUnreadable: the key may not read events.
            ConnectionFailed: see ``StripeClient.get``.
            ConnectorError: the same, and a checkpoint that is not one of this source.
        """
        names = {selected.name for selected in self._request.streams}
        if not names:
            return
        now = self._client.clock.second()
        cursor = self._cursor
        if cursor is not None and cursor.is_too_old(now):
            yield _error(
                f"{_too_old(cursor, now)}: what changed since may be lost, so the streams are read "
                "again"
            )
            cursor = None
        if cursor is None:
            cursor = EventCursor(since=await confirm_readable(self._client) - OVERLAP)
        for stream in sorted(cursor.lost(now)):
            yield _error(f"{_lost(stream)}, so the stream is read again")
        cursor = cursor.following(cursor.followed - cursor.lost(now))
        for selected in self._request.streams:
            name = selected.name
            stored = self._state.streams.get(name, "")
            if name not in cursor.followed and not accounts_for_nothing(name, stored):
                untouched = untouched_checkpoint(selected, self._request, now)
                self._state.streams[name] = untouched
                yield self._counted(StateCheckpoint(stream=name, data=untouched))
        cursor = cursor.following((cursor.followed & self._scope.streams.keys()) | names)
        self._cursor = self._committed = cursor
        if cursor != self._told:
            yield self._checkpoint(cursor)

    async def poll(self, until: int) -> Messages:
        """Yields the records of the events that were not applied yet, and checkpoints behind them.

        Nothing is read, unless ``events_only`` asks for it, where no history was read that events
        could follow on.

        Args:
            until: The Unix second up to which events count, exclusive. May be called again with a
                later one.

        Raises:
            EventsUnreadable: the key may not read events.
            ConnectionFailed: see ``StripeClient.get`` and ``process_events``; Stripe fails.
            ConnectorError: the same, or there is no cursor that events could be read from.
        """
        now = self._client.clock.second()
        cursor = self._followable(now)
        if cursor is None:
            return
        for stream in sorted(cursor.lost(now)):
            yield _error(f"{_lost(stream)}; the next sync reads the stream again")
        followed = (cursor.followed & self._scope.streams.keys()) - cursor.lost(now)
        poll_round = PollRound(
            cursor.following(followed),
            committed=self._committed or cursor,
            refused=self._request.refused_streams,
        )
        if poll_round.start is None:
            return
        windows = EventWindows(self._client, gte=poll_round.start, lt=until)
        try:
            async with (
                SameSecond(self._scope) as same_second,
                aclosing(self._rounds(poll_round, windows, same_second)) as messages,
            ):
                async for message in messages:
                    yield message
        except EventsUnreadable as error:
            raise _unreadable(error) from error
        except RequestFailed as error:
            if error.scope is not FailureScope.STRIPE:
                raise
            # No event is at fault, and the history is no remedy.
            raise ConnectionFailed(error.message) from error
        finally:
            await windows.close()

    async def _rounds(
        self, poll_round: PollRound, windows: EventWindows, same_second: SameSecond
    ) -> Messages:
        accounted = None
        self._news.clear()
        if poll_round.cursor.failing and not windows.is_over:
            async with aclosing(self._retry(poll_round, same_second)) as messages:
                async for message in messages:
                    yield message
        while (group := await windows.next(self._ahead())) is not None:
            chosen = chosen_events(group.events, poll_round, self._scope)
            # Of the group itself, nothing is accounted for before all of it is applied.
            floor = int(group.events[0].head.created) if group.events else group.before
            applying = self._apply(
                poll_round,
                chosen,
                same_second,
                before=min(floor, group.before),
                known_until=group.known_until,
                # A second that is read in parts may have more events than a cursor should hold.
                is_whole=group.before != accounted,
            )
            async with aclosing(applying) as messages:
                async for message in messages:
                    yield message
            if group.before == accounted:
                # A second that is read in parts is accounted for as a whole.
                continue
            accounted = group.before
            is_last = windows.is_over or self._states_left == 1
            accounting = self._account(poll_round, group.before, group.known_until, is_last=is_last)
            async with aclosing(accounting) as messages:
                async for message in messages:
                    yield message

    async def _retry(self, poll_round: PollRound, same_second: SameSecond) -> Messages:
        """Yields what the failing events make that earlier polls left."""
        start = poll_round.start
        if start is None:
            return
        texts: list[bytes] = []
        failing = poll_round.cursor.failing
        for event_id, text in (await _fetch_all(self._client, failing)).items():
            if text is not None:
                texts.append(text)
                continue
            known = failing[event_id]
            poll_round.retry(event_id, None, ())
            letter = dead_letter(
                bare_event(event_id, known.type, known.created),
                attempts=known.attempts,
                reason=f"Stripe does not show the event any more. It failed before: {known.reason}",
            )
            async with aclosing(self._give_up(letter, poll_round, start, start)) as messages:
                async for message in messages:
                    yield message
        chosen = retried_events(texts, poll_round, self._scope)
        # So old that nothing of the account is taken for known.
        async with aclosing(
            self._apply(poll_round, chosen, same_second, before=start, known_until=start)
        ) as messages:
            async for message in messages:
                yield message

    async def _apply(
        self,
        poll_round: PollRound,
        chosen: Iterator[ChosenEvent],
        same_second: SameSecond,
        *,
        before: int,
        known_until: int,
        is_whole: bool = True,
    ) -> Messages:
        """Yields what events make, and those of them that are given up.

        Where these are as many as one request may list, a checkpoint follows at once. So it does
        behind every ``_EVENTS_AT_ONCE`` events: looking up the objects of all may take longer than
        a request has.

        Args:
            poll_round: Told of those that fail.
            chosen: The events.
            same_second: Has the objects looked up of which events of one second tell.
            before: What can be accounted for meanwhile, as of ``PollRound.account``.
            known_until: As of ``PollRound.account``.
            is_whole: Whether a checkpoint may hold the ids of all these events.
        """
        while events := list(islice(chosen, _EVENTS_AT_ONCE)):
            self._news.update(*(event.streams for event in events))
            applying = apply_events(self._client, events, self._scope, same_second, self._failed)
            async with aclosing(applying) as messages:
                async for message in messages:
                    # It may have been refused meanwhile.
                    if message.record_batch.stream not in self._request.refused_streams:
                        self.note(message)
                        yield message
            for report in self._failed.skipped.reports():
                yield report
            failures = self._failed.take()
            for failure in failures:
                poll_round.withdraw(failure.sent.created, failure.sent.id)
            for failure in failures:
                letter = _fail(poll_round, failure)
                if letter is None:
                    continue
                giving_up = self._give_up(letter, poll_round, before, known_until)
                async with aclosing(giving_up) as messages:
                    async for message in messages:
                        yield message
            if is_whole and len(events) == _EVENTS_AT_ONCE and self._has_many_states_left():
                accounting = self._account(poll_round, before, known_until, is_last=False)
                async with aclosing(accounting) as messages:
                    async for message in messages:
                        yield message

    async def _give_up(
        self, letter: Message, poll_round: PollRound, before: int, known_until: int
    ) -> Messages:
        """Yields a dead letter, and a checkpoint behind the last one that fits a request."""
        yield letter
        self._given_up.add(letter.dead_letter)
        if self._given_up.is_full:
            accounting = self._account(poll_round, before, known_until, is_last=True)
            async with aclosing(accounting) as messages:
                async for message in messages:
                    yield message

    async def _account(
        self, poll_round: PollRound, before: int, known_until: int, *, is_last: bool
    ) -> Messages:
        """Yields a checkpoint, if it is worth one, once nothing can make it come to nothing."""
        cursor = poll_round.account(before, known_until)
        is_unsure = self._is_unsure or self._is_worth_telling(cursor)
        if is_last and is_unsure and self._has_uncommitted:
            # A checkpoint that accounts for a stream which is refused meanwhile comes to
            # nothing. So the last one waits until that is known.
            passed = asyncio.Event()
            yield self._request.barriers.put(passed.set)
            await passed.wait()
            cursor = poll_round.account(before, known_until)
            self._committed = cursor
            self._has_uncommitted = self._is_unsure = False
        self._cursor = cursor
        if self._is_worth_telling(cursor):
            self._news.clear()
            self._given_up.reset()
            yield self._checkpoint(cursor)

    def _followable(self, now: int) -> EventCursor | None:
        if self._cursor is not None and self._cursor.is_too_old(now):
            raise ConnectorError(
                f"{_too_old(self._cursor, now)}; a sync of the history reads the streams again"
            )
        if self._cursor is None and self._request.events_only:
            raise ConnectorError(
                "events are only followed after a sync that reads the history: run one first, with "
                "poll_events on"
            )
        return self._cursor

    def _is_worth_telling(self, cursor: EventCursor) -> bool:
        """Whether to go on from here rather than from the last checkpoint saves anything.

        Else a caller that takes one checkpoint at a time would never come to an end.
        """
        told = self._told
        return (
            # What was refused will have to be applied again.
            bool(self._news - self._request.refused_streams)
            or told is None
            or (cursor.behind, cursor.followed) != (told.behind, told.followed)
            or cursor.failing != told.failing
            or cursor.since - told.since >= OVERLAP
        )

    def _checkpoint(self, cursor: EventCursor) -> Message:
        self._told = cursor
        self._is_unsure = self._has_uncommitted
        not_followed = self._scope.streams.keys() - cursor.followed
        excluded = not_followed | cursor.behind.keys() | self._request.refused_streams
        return self._counted(
            StateCheckpoint(data=cursor.to_json(), excluded_streams=sorted(excluded))
        )

    def _counted(self, checkpoint: StateCheckpoint) -> Message:
        message = Message(source_state=checkpoint)
        self.note(message)
        return message

    def _has_many_states_left(self) -> bool:
        """Whether there are checkpoints to spare: few are better spent on whole windows."""
        return self._states_left is None or self._states_left > AHEAD

    def _ahead(self) -> int:
        left = AHEAD if self._states_left is None else self._states_left
        return max(1, min(AHEAD, left))


async def confirm_readable(client: StripeClient) -> int:
    """Asks for an event, and answers the last Unix second that was over then.

    Raises:
        EventsUnreadable: the key may not read events.
        ConnectionFailed: see ``StripeClient.get``.
        RequestFailed: the same.
    """
    try:
        return (await fetch_events(client, limit=1)).known_until
    except EventsUnreadable as error:
        raise _unreadable(error) from error


async def _fetch_all(
    client: StripeClient, failing: Mapping[str, FailingEvent]
) -> dict[str, bytes | None]:
    """The events as JSON, in the order of ``failing``; None of those not shown."""
    try:
        async with asyncio.TaskGroup() as tasks:
            fetched = {
                name: tasks.create_task(fetch_event(client, name, known.created))
                for name, known in failing.items()
            }
    except ExceptionGroup as errors:
        # The first one ended the others.
        raise errors.exceptions[0] from None
    return {name: task.result() for name, task in fetched.items()}


def _fail(poll_round: PollRound, failure: FailedEvent[ChosenEvent]) -> Message | None:
    """The message of an event that is given up; None while it is tried again."""
    event = failure.sent
    failing = FailingEvent(
        type=event.type,
        created=event.created,
        attempts=0,
        reason=failure.reason[:MOST_REASON_CHARACTERS],
    )
    attempts = poll_round.fail(event.id, failing)
    if attempts is None:
        log.warning("event_failed", event_id=event.id, event_type=event.type, error=failure.reason)
        return None
    return dead_letter(event.text, attempts=attempts, reason=failure.reason)


def _error(text: str) -> Message:
    return Message(log=Log(level=Log.LEVEL_ERROR, message=text))


def _too_old(cursor: EventCursor, now: int) -> str:
    return (
        f"the events were last read {cursor.days_old(now)} days ago, and Stripe keeps them for "
        f"{KEPT_DAYS} days"
    )


def _lost(stream: str) -> str:
    return (
        f"stream {stream} was refused so long ago that Stripe has not kept all of its events "
        f"since, which it does for {KEPT_DAYS} days"
    )


def _unreadable(error: EventsUnreadable) -> EventsUnreadable:
    return EventsUnreadable(f"{error.message}; without it, turn poll_events off")
