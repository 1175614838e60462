"""Three ways to call the same sync: in process, through one server, and through two."""

import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from time import perf_counter

import psutil

from pipesync.v1.catalog_pb2 import PipelineConfig
from pipesync.v1.engine_service_pb2 import PipelineSyncBatchRequest, SyncOptions
from pipesync.v1.pipeline_service_pb2 import (
    CreatePipelineRequest,
    Pipeline,
    SyncPipelineBatchRequest,
)
from pipesync.v1.state_pb2 import Eof, SyncState
from pipesync_client import EngineClient, PipelineClient
from tests.benchmarks.engine_in_process import engine_in_process
from tests.postgres import PostgresCluster
from tests.processes import running

IN_PROCESS, GRPC, SERVICE = "in process", "over gRPC", "service"

# Runs a sync up to a number of checkpoints, as part of the run of that name, from where the last
# call ended; returns its eof and its seconds.
SyncBatch = Callable[[str, int], Awaitable[tuple[Eof, float]]]
_EngineCall = Callable[[PipelineSyncBatchRequest], Awaitable[tuple[Eof, float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """One way to call a sync.

    Attributes:
        processes: Its processes by name: ``engine`` and, where there is one, ``service``.
        begin: Prepares to sync a pipeline that was never synced before.
    """

    processes: Mapping[str, psutil.Process]
    begin: Callable[[PipelineConfig], Awaitable[SyncBatch]]


@asynccontextmanager
async def running_chains(cluster: PostgresCluster) -> AsyncIterator[Mapping[str, Chain]]:
    """Yield every chain by its name, each with processes of its own, the shortest first."""
    async with AsyncExitStack() as stack:
        yield {
            IN_PROCESS: await stack.enter_async_context(_in_process()),
            GRPC: await stack.enter_async_context(_over_grpc()),
            SERVICE: await stack.enter_async_context(_through_service(cluster)),
        }


@asynccontextmanager
async def _in_process() -> AsyncIterator[Chain]:
    async with engine_in_process() as engine:

        async def begin(pipeline: PipelineConfig) -> SyncBatch:
            return _remembering(pipeline, engine.sync_batch)

        yield Chain(processes={"engine": psutil.Process(engine.pid)}, begin=begin)


@asynccontextmanager
async def _over_grpc() -> AsyncIterator[Chain]:
    async with (
        running("engine_server", "--listen", "127.0.0.1:0") as engine,
        EngineClient(engine.address) as client,
    ):

        async def call(request: PipelineSyncBatchRequest) -> tuple[Eof, float]:
            began = perf_counter()
            answer = await client.pipeline_sync_batch(request)
            return answer.eof, perf_counter() - began

        async def begin(pipeline: PipelineConfig) -> SyncBatch:
            return _remembering(pipeline, call)

        yield Chain(processes={"engine": psutil.Process(engine.pid)}, begin=begin)


@asynccontextmanager
async def _through_service(cluster: PostgresCluster) -> AsyncIterator[Chain]:
    with tempfile.TemporaryDirectory(prefix="pipesync-benchmark-") as directory:
        async with (
            running("engine_server", "--listen", "127.0.0.1:0") as engine,
            running(
                "service_server",
                *("--listen", "127.0.0.1:0", "--engine", engine.address, "--data-dir", directory),
                environment={"PIPESYNC_DATABASE_URL": cluster.url(await cluster.create_database())},
            ) as service,
            PipelineClient(service.address) as client,
        ):

            async def begin(pipeline: PipelineConfig) -> SyncBatch:
                pipeline_id = f"p{uuid.uuid4().hex}"
                stored = Pipeline(id=pipeline_id, config=pipeline)
                await client.create_pipeline(
                    CreatePipelineRequest(pipeline=stored, skip_check=True)
                )

                async def sync_batch(run_id: str, state_limit: int) -> tuple[Eof, float]:
                    request = SyncPipelineBatchRequest(
                        pipeline_id=pipeline_id, run_id=run_id, state_limit=state_limit
                    )
                    began = perf_counter()
                    answer = await client.sync_pipeline_batch(request)
                    return answer.eof, perf_counter() - began

                return sync_batch

            yield Chain(
                processes={
                    "engine": psutil.Process(engine.pid),
                    "service": psutil.Process(service.pid),
                },
                begin=begin,
            )


def _remembering(pipeline: PipelineConfig, call: _EngineCall) -> SyncBatch:
    """Return a call of the stateless engine that passes on the ending state of the call before."""
    state = SyncState()

    async def sync_batch(run_id: str, state_limit: int) -> tuple[Eof, float]:
        options = SyncOptions(run_id=run_id, state=state, state_limit=state_limit)
        eof, seconds = await call(PipelineSyncBatchRequest(pipeline=pipeline, options=options))
        state.CopyFrom(eof.ending_state)
        return eof, seconds

    return sync_batch
