"""Reads for a scripted source."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import orjson

from engine_server.connectors.protocols import Messages, ReadRequest
from pipesync.v1.message_pb2 import Message
from tests.messages import checkpoint, completed, record_batch, started

Read = Callable[[ReadRequest], Messages]
# Pages of records by stream.
Dataset = Mapping[str, Sequence[Sequence[bytes]]]


def pages(dataset: Dataset) -> Read:
    """Return a correct read with a checkpoint per page, which resumes from any of them."""

    async def read(request: ReadRequest) -> Messages:
        for selected in request.streams:
            name = selected.name
            state = orjson.loads(request.state.streams.get(name, '{"pages": 0}'))
            yield started(name)
            for number, page in enumerate(dataset[name], start=1):
                if number <= state["pages"]:
                    continue
                if name in request.errored_streams:
                    break
                yield record_batch(name, *page)
                yield checkpoint(name, f'{{"pages": {number}}}')
            else:
                yield completed(name)

    return read


def given(*messages: Message) -> Read:
    """Return a read that yields these messages for any request."""

    async def read(request: ReadRequest) -> Messages:
        for message in messages:
            yield message

    return read


def then_blocks(*messages: Message) -> Read:
    """Return a read that yields these messages, then blocks."""

    async def read(request: ReadRequest) -> Messages:
        for message in messages:
            yield message
        await asyncio.Event().wait()

    return read


def then_raises(error: Exception, *messages: Message) -> Read:
    """Return a read that yields these messages, then raises."""

    async def read(request: ReadRequest) -> Messages:
        for message in messages:
            yield message
        raise error

    return read
