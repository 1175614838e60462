"""Scripted answers of an engine to the requests of continuous pipelines."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.progress_pb2 import RunStatus, StreamProgress
from pipesync.v1.state_pb2 import Eof, SyncState
from pipesync_client import PipelineClient
from tests.service_server.conftest import connector, pipeline

Request = engine_pb.PipelineSyncBatchRequest


def continuous(pipeline_id: str = "first", **source: Any) -> pb.Pipeline:
    """Return a continuous pipeline with further configuration of its source."""
    made = pipeline(pipeline_id)
    made.config.source.CopyFrom(connector(**source))
    made.sync_policy = pb.SYNC_POLICY_CONTINUOUS
    return made


async def create(client: PipelineClient, pipeline_id: str = "first", **source: Any) -> pb.Pipeline:
    request = pb.CreatePipelineRequest(pipeline=continuous(pipeline_id, **source), skip_check=True)
    return (await client.create_pipeline(request)).pipeline


async def update(client: PipelineClient, wanted: pb.Pipeline, *paths: str) -> pb.Pipeline:
    request = pb.UpdatePipelineRequest(pipeline=wanted)
    request.update_mask.paths.extend(paths)
    return (await client.update_pipeline(request)).pipeline


async def set_desired(
    client: PipelineClient, status: pb.DesiredStatus.ValueType, pipeline_id: str = "first"
) -> None:
    await update(client, pb.Pipeline(id=pipeline_id, desired_status=status), "desired_status")


def succeeded(request: Request) -> Eof:
    """Return the end of a complete request, which makes a cursor."""
    return _ended(request, RunStatus.RUN_STATUS_SUCCEEDED)


def cut(request: Request) -> Eof:
    """Return the end of a request that was cut short after one more checkpoint."""
    eof = _ended(request, RunStatus.RUN_STATUS_STARTED)
    eof.has_more = True
    return eof


def failed(request: Request, reason: str) -> Eof:
    """Return the end of a request that failed."""
    eof = _ended(request, RunStatus.RUN_STATUS_FAILED)
    eof.failure_message = reason
    return eof


def unaccounted(request: Request) -> Eof:
    """Return the end of a poll that was cut short after records, but before a checkpoint."""
    eof = Eof(status=RunStatus.RUN_STATUS_STARTED, has_more=True)
    eof.ending_state.CopyFrom(request.options.state)
    for progress in (eof.run_progress, eof.request_progress):
        # The engine counts streams in this way whose history it does not read.
        progress.streams["customers"].status = StreamProgress.STATUS_COMPLETED
        progress.streams["customers"].record_count = 3
        progress.derived.total_record_count = 3
    return eof


def empty(request: Request) -> Eof:
    """Return the end of a request that reached its limit without a commit; every third fails."""
    state = SyncState()
    state.CopyFrom(request.options.state)
    if not request.options.events_only:
        state.sync_run.run_id = request.options.run_id
    count = state.sync_run.empty_request_count + 1
    state.sync_run.empty_request_count = count % 3
    status = RunStatus.RUN_STATUS_FAILED if count == 3 else RunStatus.RUN_STATUS_STARTED
    return Eof(
        status=status,
        has_more=count < 3,
        ending_state=state,
        limit_message="no page arrived",
        failure_message="3 requests in a row: no page arrived" if count == 3 else "",
    )


def _ended(request: Request, status: RunStatus.ValueType) -> Eof:
    state = SyncState()
    state.CopyFrom(request.options.state)
    count = int(state.source.streams.get("customers", "0")) + 1
    state.source.streams["customers"] = str(count)
    state.source.shared = f'"{count}"'
    if not request.options.events_only:
        state.sync_run.run_id = request.options.run_id
    eof = Eof(status=status, ending_state=state)
    for progress in (eof.run_progress, eof.request_progress):
        progress.derived.status = status
        progress.derived.total_state_count = count
        progress.derived.total_record_count = 100 * count
    return eof


@dataclass
class Batches:
    """Scripted answers to batches; the last one repeats.

    Attributes:
        script: Functions that answer one request each.
        asked: All requests so far.
    """

    script: list[Callable[[Request], Eof]]
    asked: list[Request] = field(default_factory=list)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def __call__(self, request: Request) -> Eof:
        async with self._changed:
            self.asked.append(request)
            self._changed.notify_all()
        do = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return do(request)

    @property
    def runs(self) -> list[Request]:
        """Requests that read history."""
        return [request for request in self.asked if not request.options.events_only]

    @property
    def polls(self) -> list[Request]:
        """Requests that read events."""
        return [request for request in self.asked if request.options.events_only]

    async def until(self, wanted: Callable[["Batches"], bool], *, seconds: float = 20) -> None:
        """Wait until the requests satisfy a condition."""
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: wanted(self))
        except TimeoutError:
            raise AssertionError(f"after {seconds} s the requests are: {self.asked}") from None
