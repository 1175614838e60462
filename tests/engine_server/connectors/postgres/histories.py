"""Histories of an account, its pipeline and its database, each of which may lose data.

The pipeline is a small model of a source and a service: it reads pages of history, then events,
either polled from a cursor or pushed from an inbox that keeps applied events.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

import asyncpg

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.protocols import ResumeResult
from pipesync.v1.message_pb2 import Message
from pipesync.v1.state_pb2 import CheckpointPosition, SyncState
from tests.engine_server.connectors.postgres.builders import customer, records, stream
from tests.engine_server.connectors.postgres.resuming import Caller, inputs_end
from tests.engine_server.stages.sequences import given
from tests.messages import checkpoint

STREAMS = ("customers", "products")
RECORDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inbox:
    """Events by number: None while pending, else the position of their application."""

    events: dict[int, CheckpointPosition | None] = field(default_factory=dict)
    replayable: CheckpointPosition | None = None


class History:
    """The history of one account, its pipeline and its database.

    Args:
        database: A session of the destination's database.
        config: The destination's configuration.
        polls: Whether events are polled; else they are pushed.
    """

    def __init__(
        self, database: asyncpg.Connection, config: PostgresConfig, *, polls: bool
    ) -> None:
        self._database = database
        self._caller = Caller(config, *(stream(name, properties={}) for name in STREAMS))
        self._polls = polls
        self._inbox = _Inbox()
        self._event_count = 0
        self._dumps: list[Sequence[str]] = []
        self._copies: list[tuple[SyncState, _Inbox]] = []

    def change(self) -> None:
        """Change one object, and record an event of it."""
        self._event_count += 1
        if not self._polls:
            self._inbox.events[self._event_count] = None

    async def sync(self, *, cut: int | None = None, is_stored: bool = True) -> None:
        """Run one request, and then apply pending events.

        Args:
            cut: The number of messages after which request and process end; None for no limit.
            is_stored: Whether the yielded states are stored.
        """
        before = self._caller.copied(), self._copy_of_inbox()
        resumed = await self._resume(
            advanced_streams=STREAMS, advances_shared_checkpoint=self._polls
        )
        written = await self._write(resumed, given(*self._messages()), cut)
        if not is_stored:
            self._caller.state, self._inbox = before
        if written:
            await self.push()

    async def push(self, *, is_stored: bool = True) -> None:
        """Apply the inbox's pending events."""
        pending = [number for number, at in self._inbox.events.items() if at is None]
        if not pending:
            return
        before = self._caller.copied(), self._copy_of_inbox()
        resumed = await self._resume(
            advanced_streams=(), advances_shared_checkpoint=False, pushes_inputs=True
        )
        pending = [number for number, at in self._inbox.events.items() if at is None]
        messages = [*map(self._event, sorted(pending)), inputs_end()]
        await self._write(resumed, given(*messages), None)
        for number in pending:
            applied = CheckpointPosition()
            applied.CopyFrom(self._caller.state.inputs_position)
            self._inbox.events[number] = applied
        if not is_stored:
            self._caller.state, self._inbox = before

    def reset(self) -> None:
        """Forget the state."""
        self._caller.state = SyncState()
        self._inbox = replace(self._inbox, replayable=None)

    async def drop(self, name: str) -> None:
        """Drop a table."""
        await self._database.execute(f"DROP TABLE IF EXISTS stripe.{name}")

    async def truncate(self, name: str) -> None:
        """Empty a table."""
        if await self._database.fetchval("SELECT to_regclass($1)", f"stripe.{name}"):
            await self._database.execute(f"TRUNCATE stripe.{name}")

    async def dump(self) -> None:
        """Back up the database."""
        tables = await self._tables()
        backup = f"backup_{len(self._dumps)}"
        await self._database.execute(f"CREATE SCHEMA {backup}")
        for table in tables:
            await self._copy(f"stripe.{table}", f"{backup}.{table}")
        self._dumps.append(tables)

    async def restore(self, number: int) -> None:
        """Restore an earlier database."""
        if not self._dumps:
            return
        number %= len(self._dumps)
        await self._database.execute("DROP SCHEMA IF EXISTS stripe CASCADE; CREATE SCHEMA stripe")
        for table in self._dumps[number]:
            await self._copy(f"backup_{number}.{table}", f"stripe.{table}")

    def copy_store(self) -> None:
        """Back up the store."""
        self._copies.append((self._caller.copied(), self._copy_of_inbox()))

    def roll_back(self, number: int) -> None:
        """Restore an earlier store; of later events, only pending ones are left."""
        if not self._copies:
            return
        state, inbox = self._copies[number % len(self._copies)]
        self._caller.state = SyncState()
        self._caller.state.CopyFrom(state)
        pending = {number for number, at in self._inbox.events.items() if at is None}
        events = {**dict.fromkeys(pending), **inbox.events}
        self._inbox = replace(inbox, events=events)

    async def missing(self) -> dict[str, object]:
        """Return the rows that differ from the account, by stream and id."""
        found: dict[str, object] = {}
        for name in STREAMS:
            rows = await self._database.fetch(
                f"SELECT id, (_raw_data ->> 'version')::int AS version FROM stripe.{name}"  # noqa: S608 - ours
            )
            held = {row["id"]: row["version"] for row in rows}
            for number in range(RECORDS):
                wanted = self._version(name, number)
                if held.get(f"cus_{number}") != wanted:
                    found[f"{name} {number}"] = (held.get(f"cus_{number}"), wanted)
        return found

    def _version(self, name: str, number: int) -> int:
        """Return the last event of an object; 0 when it never changed."""
        events = [
            event for event in range(1, self._event_count + 1) if self._of(event) == (name, number)
        ]
        return max(events, default=0)

    def _of(self, event: int) -> tuple[str, int]:
        return STREAMS[event % 2], event * 7 // 2 % RECORDS

    def _record(self, name: str, number: int) -> Message:
        version = self._version(name, number)
        return records(name, customer(number, at=1000 + version, version=version))

    def _event(self, event: int) -> Message:
        name, number = self._of(event)
        message = records(name, customer(number, at=1000 + event, version=event))
        message.record_batch.are_change_events = True
        return message

    def _messages(self) -> list[Message]:
        source, messages = self._caller.state.source, []
        cursor = source.shared
        if self._polls and not cursor:
            cursor = str(self._event_count)
            messages.append(checkpoint("", cursor))
        for name in STREAMS:
            for number in range(int(source.streams.get(name, "0")), RECORDS):
                messages += [self._record(name, number), checkpoint(name, str(number + 1))]
        if self._polls:
            for event in range(int(cursor) + 1, self._event_count + 1):
                messages += [self._event(event), checkpoint("", str(event))]
        return messages

    async def _resume(self, *, advanced_streams: Sequence[str], **request: bool) -> ResumeResult:
        had = self._caller.copied()
        resumed = await self._caller.resume(
            advanced_streams=advanced_streams, replayable_inputs=self._inbox.replayable, **request
        )
        if resumed.inputs_are_lost and resumed.lost_inputs_are_replayable:
            held = resumed.held_inputs
            assert held is not None
            for number, at in self._inbox.events.items():
                if at is not None and (at.epoch != held.epoch or at.number > held.number):
                    self._inbox.events[number] = None
        now = resumed.inputs_position
        if now is not None and now != had.inputs_position:
            # A new epoch, or the database is ahead: earlier events may be lost.
            self._inbox = replace(self._inbox, replayable=now)
        return resumed

    async def _write(
        self, resumed: ResumeResult, messages: AsyncIterator[Message], cut: int | None
    ) -> bool:
        first = self._inbox.replayable is None
        if cut is None:
            await self._caller.write(resumed, messages)
        else:
            await self._caller.write_some(resumed, messages, cut)
        now = self._caller.state.inputs_position
        if first and now.number:
            replayable = CheckpointPosition(epoch=now.epoch, number=now.number - 1)
            self._inbox = replace(self._inbox, replayable=replayable)
        return cut is None

    def _copy_of_inbox(self) -> _Inbox:
        return replace(self._inbox, events=dict(self._inbox.events))

    async def _tables(self) -> Sequence[str]:
        rows = await self._database.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'stripe'"
        )
        return [row["tablename"] for row in rows]

    async def _copy(self, table: str, copy: str) -> None:
        await self._database.execute(
            f"CREATE TABLE {copy} (LIKE {table} INCLUDING ALL); "  # noqa: S608 - ours
            f"INSERT INTO {copy} SELECT * FROM {table}"
        )
