"""Polls an account's events, from the start of a backfill on."""

import dataclasses
from collections.abc import Iterator
from contextlib import aclosing
from itertools import islice

from engine_server.connectors.protocols import Messages, ReadRequest
from engine_server.connectors.stripe.account import Account
from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import FailureScope, RequestFailed
from engine_server.connectors.stripe.backfill.backfill import untouched_checkpoint
from engine_server.connectors.stripe.backfill.checkpoint import accounts_for_nothing
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.events.dead_letter import bare_event, dead_letter
from engine_server.connectors.stripe.events.failed_events import FailedEvents
from engine_server.connectors.stripe.events.polling.cursor import (
    OVERLAP,
    EventCursor,
)
from engine_server.connectors.stripe.events.polling.event_checkpoints import EventCheckpoints
from engine_server.connectors.stripe.events.polling.event_pages import (
    EventsUnreadable,
    confirm_readable,
    with_polling_remedy,
)
from engine_server.connectors.stripe.events.polling.event_windows import AHEAD, EventWindows
from engine_server.connectors.stripe.events.polling.notices import error_message, lost, too_old
from engine_server.connectors.stripe.events.polling.poll_round import PollRound
from engine_server.connectors.stripe.events.polling.polled_events import (
    ChosenEvent,
    apply_events,
    chosen_events,
    retried_events,
)
from engine_server.connectors.stripe.events.polling.retries import (
    fetch_failing,
    keep_or_dead_letter,
)
from engine_server.connectors.stripe.events.same_second import SameSecond
from engine_server.connectors.stripe.events.scope import EventScope
from engine_server.errors import ConnectionFailed, ConnectorError
from pipesync.v1.message_pb2 import Message, StateCheckpoint
from pipesync.v1.state_pb2 import SourceState

# The number of events processed before their failures are handled.
_EVENTS_AT_ONCE = 100


class Poller:
    """The events of one read: ``begin`` before its history, then any number of ``poll``."""

    def __init__(
        self, client: StripeClient, config: StripeConfig, request: ReadRequest, account: Account
    ) -> None:
        """Start at the checkpoint of all streams.

        Raises:
            ConnectorError: The checkpoint is not an events cursor.
        """
        self._client = client
        self._request = request
        streams = request.selected or request.streams
        self._scope = EventScope.of(config, account, streams, request.stored_rows, request.barriers)
        self._state = SourceState()
        self._state.CopyFrom(request.state)
        self._checkpoints = EventCheckpoints(
            request, EventCursor.parse(request.state.shared), self._scope.streams.keys()
        )
        self._failed: FailedEvents[ChosenEvent] = FailedEvents()

    @property
    def history(self) -> ReadRequest:
        """The request for the history, to be read after ``begin``."""
        return dataclasses.replace(
            self._request, state=self._state, state_limit=self._checkpoints.states_left
        )

    def observe(self, message: Message) -> None:
        """Observe another message of the read, which counts towards ``state_limit``."""
        self._checkpoints.observe(message)

    async def begin(self) -> Messages:
        """Yield the messages before the history, from which on events are followed.

        A stream that was not followed before is read again from the start, as its events may have
        been missed. No message is yielded if no history is to be read.

        Raises:
            EventsUnreadable: The key may not read events.
            ConnectionFailed: See ``StripeClient.get``.
            ConnectorError: A request failed, or a checkpoint is not one of this source.
        """
        names = {selected.name for selected in self._request.streams}
        if not names:
            return
        now = self._client.clock.second()
        cursor = self._checkpoints.cursor
        if cursor is not None and cursor.is_too_old(now):
            yield error_message(
                f"{too_old(cursor, now)}: what changed since may be lost, so the streams are read "
                "again"
            )
            cursor = None
        if cursor is None:
            cursor = EventCursor(since=await confirm_readable(self._client) - OVERLAP)
        for stream in sorted(cursor.lost(now)):
            yield error_message(f"{lost(stream)}, so the stream is read again")
        cursor = cursor.following(cursor.followed - cursor.lost(now))
        for selected in self._request.streams:
            name = selected.name
            stored = self._state.streams.get(name, "")
            if name not in cursor.followed and not accounts_for_nothing(name, stored):
                untouched = untouched_checkpoint(selected, self._request, now)
                self._state.streams[name] = untouched
                yield self._checkpoints.counted(StateCheckpoint(stream=name, data=untouched))
        cursor = cursor.following((cursor.followed & self._scope.streams.keys()) | names)
        if (checkpoint := self._checkpoints.begin(cursor)) is not None:
            yield checkpoint

    async def poll(self, until: int) -> Messages:
        """Yield the records of events not applied yet, each followed by checkpoints.

        Without a history that events can follow, no events are read; ``events_only`` makes that an
        error.

        Args:
            until: The end of the events in Unix seconds, exclusive. Further calls may have a later
                one.

        Raises:
            EventsUnreadable: The key may not read events.
            ConnectionFailed: See ``StripeClient.get`` and ``process_events``; or Stripe fails.
            ConnectorError: A request failed, or there is no cursor to read events from.
        """
        now = self._client.clock.second()
        cursor = self._followable(now)
        if cursor is None:
            return
        for stream in sorted(cursor.lost(now)):
            yield error_message(f"{lost(stream)}; the next sync reads the stream again")
        followed = (cursor.followed & self._scope.streams.keys()) - cursor.lost(now)
        poll_round = PollRound(
            cursor.following(followed),
            committed=self._checkpoints.committed or cursor,
            errored=self._request.errored_streams,
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
            raise with_polling_remedy(error) from error
        except RequestFailed as error:
            if error.scope is not FailureScope.STRIPE:
                raise
            # No event is at fault, and reading the history again would not help.
            raise ConnectionFailed(error.message) from error
        finally:
            await windows.close()

    async def _rounds(
        self, poll_round: PollRound, windows: EventWindows, same_second: SameSecond
    ) -> Messages:
        accounted = None
        self._checkpoints.begin_round()
        if poll_round.cursor.failing and not windows.is_over:
            async with aclosing(self._retry(poll_round, same_second)) as messages:
                async for message in messages:
                    yield message
        while (group := await windows.next(self._ahead())) is not None:
            chosen = chosen_events(group.events, poll_round, self._scope)
            # The group itself is accounted for only when all of it is applied.
            floor = int(group.events[0].head.created) if group.events else group.before
            applying = self._apply(
                poll_round,
                chosen,
                same_second,
                before=min(floor, group.before),
                known_until=group.known_until,
                # A second that is read in parts may have too many events for a cursor.
                is_whole=group.before != accounted,
            )
            async with aclosing(applying) as messages:
                async for message in messages:
                    yield message
            if group.before == accounted:
                # A second that is read in parts is accounted for as a whole.
                continue
            accounted = group.before
            is_last = windows.is_over or self._checkpoints.states_left == 1
            accounting = self._checkpoints.account(
                poll_round, group.before, group.known_until, is_last=is_last
            )
            async with aclosing(accounting) as messages:
                async for message in messages:
                    yield message

    async def _retry(self, poll_round: PollRound, same_second: SameSecond) -> Messages:
        """Yield the records of failing events that earlier polls left."""
        start = poll_round.start
        if start is None:
            return
        texts: list[bytes] = []
        failing = poll_round.cursor.failing
        for event_id, text in (await fetch_failing(self._client, failing)).items():
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
        # These events are too old for their results to be reused.
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
        """Yield the records of events, and the dead letters of failed ones.

        A checkpoint follows as soon as there are as many dead letters as one request may list. It
        also follows every ``_EVENTS_AT_ONCE`` events, because looking up the objects of all events
        may take longer than the request's time limit.

        Args:
            poll_round: Records the events that fail.
            chosen: The events.
            same_second: Decides whose objects are looked up because of other events in the same
                second.
            before: The second to account for meanwhile, as in ``PollRound.account``.
            known_until: As in ``PollRound.account``.
            is_whole: Whether a checkpoint may hold the ids of all these events.
        """
        while events := list(islice(chosen, _EVENTS_AT_ONCE)):
            self._checkpoints.observe_applied(event.streams for event in events)
            applying = apply_events(self._client, events, self._scope, same_second, self._failed)
            async with aclosing(applying) as messages:
                async for message in messages:
                    # The stream may have been refused meanwhile.
                    if message.record_batch.stream not in self._request.errored_streams:
                        self._checkpoints.observe(message)
                        yield message
            for report in self._failed.skipped.reports():
                yield report
            failures = self._failed.take()
            for failure in failures:
                poll_round.withdraw(failure.sent.created, failure.sent.id)
            for failure in failures:
                letter = keep_or_dead_letter(poll_round, failure)
                if letter is None:
                    continue
                giving_up = self._give_up(letter, poll_round, before, known_until)
                async with aclosing(giving_up) as messages:
                    async for message in messages:
                        yield message
            if is_whole and len(events) == _EVENTS_AT_ONCE and self._has_many_states_left():
                accounting = self._checkpoints.account(
                    poll_round, before, known_until, is_last=False
                )
                async with aclosing(accounting) as messages:
                    async for message in messages:
                        yield message

    async def _give_up(
        self, letter: Message, poll_round: PollRound, before: int, known_until: int
    ) -> Messages:
        """Yield a dead letter, and a checkpoint after the last one that a request may list."""
        yield letter
        if self._checkpoints.observe_dead_letter(letter.dead_letter):
            accounting = self._checkpoints.account(poll_round, before, known_until, is_last=True)
            async with aclosing(accounting) as messages:
                async for message in messages:
                    yield message

    def _followable(self, now: int) -> EventCursor | None:
        cursor = self._checkpoints.cursor
        if cursor is not None and cursor.is_too_old(now):
            raise ConnectorError(
                f"{too_old(cursor, now)}; a sync of the history reads the streams again"
            )
        if cursor is None and self._request.events_only:
            raise ConnectorError(
                "events can only be polled after a sync that reads the history: run one first, "
                "with poll_events on"
            )
        return cursor

    def _has_many_states_left(self) -> bool:
        """Return whether checkpoints can be spent on parts of windows."""
        left = self._checkpoints.states_left
        return left is None or left > AHEAD

    def _ahead(self) -> int:
        left = self._checkpoints.states_left
        return AHEAD if left is None else max(1, min(AHEAD, left))
