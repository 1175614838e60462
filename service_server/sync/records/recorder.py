"""Recorder of one engine call, which stores the record while the call runs and at its end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pipesync.v1.message_pb2 import Message
from service_server.background.heartbeats import Heartbeats, Loop
from service_server.background.loop import BackgroundLoop, Backoff
from service_server.errors import LeaseLost
from service_server.leases.lease import Lease
from service_server.sync.records.dead_letters import DeadLetters
from service_server.sync.records.record import Record
from service_server.sync.records.rewinds import log_rewinds
from service_server.sync.records.storing import Writes, store_with_retry

# Longest time between a change and its storage, in seconds.
_INTERVAL = 1.0
# Seconds between two heartbeats while nothing changes.
_LONGEST_WAIT = 30.0


class Recorder:
    """Stores the record of one call, with the dead letters of its source."""

    def __init__(
        self,
        lease: Lease,
        record: Record,
        dead_letters: DeadLetters | None = None,
        heartbeats: Heartbeats | None = None,
    ) -> None:
        """Initialize for a call that is about to be made.

        Args:
            lease: The lease of the pipeline, which every store requires.
            record: The record of the call.
            dead_letters: The events that the source gives up; None if the caller retries them.
            heartbeats: Registry for the heartbeat of ``storing``.
        """
        self._lease = lease
        self._record = record
        self._dead_letters = dead_letters
        self._storing = BackgroundLoop(
            Loop.STATE_STORING,
            self._store_changes,
            heartbeats or Heartbeats(),
            backoff=Backoff(first=_INTERVAL / 2),
            subject=lease.pipeline_id,
        )
        self._is_changed = False
        self._is_resumed = False

    @property
    def has_news(self) -> bool:
        """Whether anything is not stored yet."""
        has_letters = self._dead_letters is not None and self._dead_letters.are_unstored
        return has_letters or self._record.has_news

    def take(self, message: Message) -> None:
        """Record one message."""
        is_changed = self._record.take(message)
        match message.WhichOneof("payload"):
            case "resumption":
                self._is_resumed = True
                log_rewinds(self._lease.pipeline_id, message.resumption)
            case "dead_letter" if self._dead_letters is not None:
                self._dead_letters.add(message.dead_letter)
                is_changed = True
            case "eof":
                if not self._is_resumed:
                    log_rewinds(self._lease.pipeline_id, message.eof)
                if self._dead_letters is not None:
                    for letter in message.eof.dead_letters:
                        self._dead_letters.add(letter)
        if is_changed:
            self._is_changed = True
            self._storing.wake()

    async def store(self, extra_writes: Writes | None = None) -> None:
        """Store everything that is recorded in one transaction.

        Args:
            extra_writes: Writes at the end of the same transaction, instead of the status.

        Raises:
            LeaseLost: Another process may sync the pipeline by now; nothing was stored.
            StoreUnavailable: The database is unavailable.
        """
        record = self._record
        async with self._lease.transaction() as connection:
            # Both are copied now, because messages may arrive while the letters are written, and
            # a checkpoint must not be stored without the dead letters before it.
            letters, snapshot = None, record.snapshot()
            if self._dead_letters is not None and snapshot.is_of_pipeline:
                letters = self._dead_letters.unstored()
                await letters.store(connection)
            await record.store(connection, snapshot)
            if snapshot.is_of_pipeline:
                await (extra_writes or record.store_status)(connection)
        if letters is not None:
            letters.done()
        record.note_stored(snapshot)

    async def store_with_retry(self, extra_writes: Writes | None = None) -> None:
        """Store like ``store``, with retries while the database is unavailable and the lease lasts.

        Raises:
            LeaseLost: Another process may sync the pipeline by now; nothing was stored.
            Exception: The error of the last of several attempts.
        """
        await store_with_retry(lambda: self.store(extra_writes))

    @asynccontextmanager
    async def storing(self) -> AsyncIterator[None]:
        """Store changes during the body within a second, and once more at its end.

        Without a change nothing is stored.
        """
        try:
            async with self._storing.running(first_in=_LONGEST_WAIT):
                yield
        finally:
            self._record.end()
            if self.has_news:
                await self.store_with_retry()

    async def _store_changes(self) -> float:
        if self._is_changed:
            self._is_changed = False
            try:
                await self.store()
            except LeaseLost:
                self._lease.abandon()
                self._storing.end()
            except BaseException:
                self._is_changed = True
                raise
            await asyncio.sleep(_INTERVAL)
        return _LONGEST_WAIT
