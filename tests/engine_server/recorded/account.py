"""Account in memory that a scripted source lists, polls and reconciles."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from engine_server.connectors.protocols import Messages, ReadRequest, StoredRows
from pipesync.v1.message_pb2 import Message
from tests.messages import checkpoint, completed, global_checkpoint, record_batch, started

PAGE_SIZE = 1


@dataclass(kw_only=True)
class Account:
    """Objects by stream, and the events of their changes.

    Attributes:
        objects: Values of each stream's objects by number.
        events: One record per change, in order.
    """

    objects: dict[str, dict[int, str]]
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    _latest: int = 0

    @property
    def now(self) -> int:
        """The current time; each event takes one unit."""
        return len(self.events)

    def create(self, stream: str) -> None:
        self._latest += 1
        self._change(stream, self._latest, "new")

    def update(self, stream: str, place: int, value: str) -> None:
        """Update the object at an index, modulo the number of objects."""
        if numbers := sorted(self.objects[stream]):
            self._change(stream, numbers[place % len(numbers)], value)

    def delete(self, stream: str, place: int) -> None:
        if numbers := sorted(self.objects[stream]):
            number = numbers[place % len(numbers)]
            del self.objects[stream][number]
            self.events.append((stream, {**_record(number, "", self.now + 1), "deleted": True}))

    def expected(self, stream: str) -> dict[str, str]:
        """Return the value of each object by id."""
        return {str(number): value for number, value in self.objects[stream].items()}

    async def read(self, request: ReadRequest) -> Messages:
        """List the streams, newest last, then poll; see ``Source.read``."""
        text = request.state.shared
        cursor = int(text) if text else None
        checkpoints = dict(request.state.streams)
        if request.streams and cursor is None:
            cursor = self.now
            # Events of objects that were read before may have been missed.
            for selected in request.streams:
                if checkpoints.pop(selected.name, ""):
                    yield checkpoint(selected.name, '{"after":0}')
            yield global_checkpoint(str(cursor))
        for selected in request.streams:
            after = json.loads(checkpoints.get(selected.name, '{"after":0}'))["after"]
            async for message in self._list(selected.name, after, request):
                yield message
        if cursor is None:
            return
        while cursor < self.now:
            some = self.events[cursor : cursor + PAGE_SIZE]
            cursor += len(some)
            for stream, record in some:
                yield record_batch(stream, record)
            yield global_checkpoint(str(cursor))

    async def _list(self, stream: str, after: int, request: ReadRequest) -> Messages:
        yield started(stream)
        while True:
            rest = sorted(number for number in self.objects[stream] if number > after)
            page = rest[:PAGE_SIZE]
            is_last = len(rest) <= PAGE_SIZE
            until = None if is_last else page[-1]
            records = [_record(number, self.objects[stream][number], self.now) for number in page]
            if request.reconcile and request.stored_rows is not None:
                records += await self._gone(stream, after, until, request.stored_rows)
            if records:
                yield record_batch(stream, *records)
            after = page[-1] if page else after
            yield checkpoint(stream, orjson.dumps({"after": after}).decode())
            if is_last:
                break
        yield completed(stream)

    async def _gone(
        self, stream: str, after: int, until: int | None, stored_rows: StoredRows
    ) -> list[dict[str, Any]]:
        """Return the held ids between two numbers that do not exist at the account."""
        gone = []
        async for ids in stored_rows.created_in(stream, None, None):
            for number in map(int, ids):
                is_between = number > after and (until is None or number <= until)
                if is_between and number not in self.objects[stream]:
                    gone.append({**_record(number, "", self.now), "deleted": True})
        return gone

    def _change(self, stream: str, number: int, value: str) -> None:
        self.objects[stream][number] = value
        self.events.append((stream, _record(number, value, self.now + 1)))


def account(streams: Iterable[str]) -> Account:
    """Yield an account without objects."""
    return Account(objects={stream: {} for stream in streams})


def inputs_of(messages: Iterable[Message]) -> Messages:
    """Return the messages that a source yields for pushed inputs."""

    async def read() -> Messages:
        for message in messages:
            yield message

    return read()


def _record(number: int, value: str, updated_at: int) -> dict[str, Any]:
    return {"id": str(number), "value": value, "_updated_at": updated_at}
