"""Reader of a simulated Stripe account through a real engine, which checks every object."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, StreamSelection
from pipesync.v1.engine_service_pb2 import (
    PipelineReadRequest,
    SourceDiscoverRequest,
    SyncOptions,
)
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync.v1.state_pb2 import Eof, SyncState
from pipesync_client import EngineClient
from tests.benchmarks.stripe_account import ACCOUNT_ID, API_KEY, Account
from tests.messages import struct
from tests.processes import running
from tests.stripe_simulator.seeds.histories import HISTORY_SECONDS

_RUN_ID = "benchmark"
# Seconds for one whole read: more than any should take.
_PATIENCE = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Figures of one read.

    Attributes:
        seconds: From the first call of the engine to the last answer.
        calls: Number of calls of the engine.
        requests: Number of requests to the account.
        refused: Number of requests refused by its rate limit (429).
        largest_checkpoint: Size of the largest checkpoint, in bytes.
    """

    seconds: float
    calls: int
    requests: int
    refused: int
    largest_checkpoint: int


class _Collected:
    """Ids of the records from the engine, and the size of the largest checkpoint."""

    def __init__(self) -> None:
        self.ids: dict[str, list[str]] = {}
        self.largest_checkpoint = 0
        self.eof = Eof()

    def add(self, message: Message) -> None:
        match message.WhichOneof("payload"):
            case "record_batch":
                batch = message.record_batch
                ids = self.ids.setdefault(batch.stream, [])
                ids += [orjson.loads(record)["id"] for record in batch.records]
            case "source_state":
                size = len(message.source_state.data.encode())
                self.largest_checkpoint = max(self.largest_checkpoint, size)
            case "eof":
                self.eof = message.eof


@asynccontextmanager
async def warm_engine() -> AsyncIterator[EngineClient]:
    """Yield a client of an engine in a process of its own that has its catalog loaded."""
    async with (
        running("engine_server", "--listen", "127.0.0.1:0") as engine,
        EngineClient(engine.address) as client,
    ):
        await all_streams(client)
        yield client


async def all_streams(client: EngineClient) -> list[str]:
    """Return the names of all streams that the Stripe source can read."""
    request = SourceDiscoverRequest(
        source=Connector(type="stripe", config=struct({"api_key": API_KEY}))
    )
    return [
        stream.name
        async for response in client.source_discover(request)
        for stream in response.message.catalog.streams
    ]


async def read(
    client: EngineClient,
    account: Account,
    streams: Sequence[str] = (),
    *,
    state_limit: int = 0,
    **source: Any,
) -> Reading:
    """Read streams to their end, each call continuing from the ending state of the last one.

    Args:
        client: Client of the engine.
        account: The account to read.
        streams: Names of the streams; those that are not empty by default.
        state_limit: Number of checkpoints that a call takes; 0 for all in one call.
        source: More of the source's configuration.

    Raises:
        RuntimeError: An object was lost or arrived twice, or a call failed.
        TimeoutError: The read did not end in time.
    """
    streams = streams or [history.stream for history in account.histories]
    pipeline = _pipeline(account, streams, source)
    collected = _Collected()
    state = SyncState()
    calls = 0
    before = await account.statuses()
    began = time.perf_counter()
    async with asyncio.timeout(_PATIENCE):
        while not calls or collected.eof.has_more:
            calls += 1
            options = SyncOptions(run_id=_RUN_ID, state=state, state_limit=state_limit)
            request = PipelineReadRequest(pipeline=pipeline, options=options)
            async for response in client.pipeline_read(request):
                collected.add(response.message)
            state = collected.eof.ending_state
    seconds = time.perf_counter() - began
    asked = await account.statuses() - before
    if collected.eof.status != RUN_STATUS_SUCCEEDED:
        raise RuntimeError(f"the read failed: {collected.eof}")
    _check_ids(account, streams, collected)
    return Reading(
        seconds=seconds,
        calls=calls,
        requests=asked.total(),
        refused=asked[429],
        largest_checkpoint=collected.largest_checkpoint,
    )


def _pipeline(
    account: Account, streams: Sequence[str], source: Mapping[str, Any]
) -> PipelineConfig:
    # Setup stores these fields of the account; its histories are HISTORY_SECONDS long.
    known = {"account_id": ACCOUNT_ID, "account_created": int(time.time()) - HISTORY_SECONDS}
    config = {"api_key": API_KEY, "base_url": account.base_url, **known, **source}
    return PipelineConfig(
        source=Connector(type="stripe", config=struct(config)),
        streams=[StreamSelection(name=name) for name in streams],
    )


def _check_ids(account: Account, streams: Sequence[str], collected: _Collected) -> None:
    expected = {history.stream: history.ids() for history in account.histories}
    for stream in streams:
        came = collected.ids.get(stream, [])
        lost = len(set(expected.get(stream, ())) - set(came))
        too_many = len(came) - len(expected.get(stream, ())) + lost
        if lost or too_many:
            raise RuntimeError(f"{stream}: {lost} objects were lost, {too_many} too many came")
