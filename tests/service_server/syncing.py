"""Syncs of the pipeline "first", and reads of their stored results."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.message_pb2 import Message, StateCheckpoint
from pipesync.v1.progress_pb2 import RunStatus
from pipesync.v1.state_pb2 import Eof, SyncRun, SyncState
from pipesync_client import PipelineClient
from service_server.store import leases, states
from service_server.store.database import Database

SyncScript = Callable[[engine_pb.PipelineSyncRequest], AsyncIterator[Message]]


def state(cursor: str, run_id: str = "") -> SyncState:
    made = SyncState(sync_run=SyncRun(run_id=run_id)) if run_id else SyncState()
    made.source.streams["customers"] = cursor
    return made


def checkpoint(cursor: str, stream: str = "customers") -> Message:
    return Message(source_state=StateCheckpoint(stream=stream, data=cursor))


def ends(cursor: str, **fields: object) -> Callable[[object], "asyncio.Future[Eof]"]:
    """Return a batch that ends with the state ``cursor``."""

    def batch(_: object) -> "asyncio.Future[Eof]":
        eof = Eof(status=RunStatus.RUN_STATUS_SUCCEEDED, ending_state=state(cursor))
        eof.MergeFrom(Eof(**fields))  # type: ignore[arg-type]  # any field of the message
        done: asyncio.Future[Eof] = asyncio.get_running_loop().create_future()
        done.set_result(eof)
        return done

    return batch


async def sync_batch(client: PipelineClient, **fields: object) -> Eof:
    request = pb.SyncPipelineBatchRequest(pipeline_id="first", **fields)  # type: ignore[arg-type]  # any field
    return (await client.sync_pipeline_batch(request)).eof


def sync(client: PipelineClient, **fields: object) -> AsyncGenerator[pb.SyncPipelineResponse, None]:
    request = pb.SyncPipelineRequest(pipeline_id="first", run_id="run", **fields)  # type: ignore[arg-type]  # any field
    return client.sync_pipeline(request)


async def runs(client: PipelineClient) -> list[pb.Run]:
    """Return the runs of the pipeline, the newest first."""
    return list((await client.list_runs(pb.ListRunsRequest(pipeline_id="first"))).runs)


async def stored_state(database: Database) -> SyncState | None:
    async with database.connection() as connection:
        return await states.get(connection, "first")


async def until_stored(database: Database, wanted: str) -> SyncState:
    """Return the stored state, once its customers' checkpoint is ``wanted``."""
    async with asyncio.timeout(5):
        while True:
            found = await stored_state(database)
            if found is not None and found.source.streams.get("customers") == wanted:
                return found
            await asyncio.sleep(0.02)


async def until_free(database: Database) -> None:
    async with asyncio.timeout(5):
        while True:
            async with database.connection() as connection:
                if await leases.get_holder(connection, "first") is None:
                    return
            await asyncio.sleep(0.02)


async def get(client: PipelineClient) -> pb.Pipeline:
    request = pb.GetPipelineRequest(pipeline_id="first", view=pb.PIPELINE_VIEW_FULL)
    return (await client.get_pipeline(request)).pipeline


def then_waits(*messages: Message) -> tuple[SyncScript, asyncio.Event]:
    """Return a sync that sends ``messages`` and never ends, and an event for its cancellation."""
    ended = asyncio.Event()

    async def script(_: object) -> AsyncGenerator[Message, None]:
        try:
            for message in messages:
                yield message
            await asyncio.Event().wait()
        finally:
            ended.set()

    return script, ended
