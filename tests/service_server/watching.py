"""Waits for the state of a pipeline by WatchPipeline, without polls."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync_client import PipelineClient


async def shown(
    client: PipelineClient,
    wanted: Callable[[pb.Pipeline], bool],
    pipeline_id: str = "first",
    *,
    seconds: float = 20,
) -> pb.Pipeline:
    """Return the pipeline, as soon as it satisfies the condition."""
    latest: pb.Pipeline | None = None
    request = pb.WatchPipelineRequest(pipeline_id=pipeline_id)
    try:
        async with asyncio.timeout(seconds), aclosing(client.watch_pipeline(request)) as answers:
            async for answer in answers:
                latest = answer.pipeline
                if wanted(latest):
                    return latest
    except TimeoutError:
        raise AssertionError(f"not shown in {seconds} s; the latest was: {latest}") from None
    raise AssertionError(f"the watch ended; the latest was: {latest}")


def has_status(status: pb.PipelineStatus.ValueType) -> Callable[[pb.Pipeline], bool]:
    """Return the condition that the pipeline has the status."""
    return lambda pipeline: pipeline.status == status
