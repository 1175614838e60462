"""Delay from a change to the watcher of the pipeline, beside a bare LISTEN."""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import aclosing

import asyncpg

from pipesync.v1 import pipeline_service_pb2 as pb
from service_server.store.notifications import PIPELINES_CHANNEL
from tests.benchmarks.registered_service import RegisteredService

# Seconds between two changes: a watcher gets at most five messages a second.
_PAUSE = (0.3, 0.5)
_PATIENCE = 30.0


async def watched(
    service: RegisteredService, pipeline_id: str, url: str, seconds: float
) -> tuple[Sequence[float], Sequence[float]]:
    """Return the milliseconds from a change to its message, and to its row by the database alone.

    Args:
        service: The service that the pipeline is watched through.
        pipeline_id: A pipeline that has no other changes.
        url: URL of the service's database.
        seconds: Duration of the changes.
    """
    source = random.Random(1)  # noqa: S311 - spreads the changes
    told: list[float] = []
    bare: list[float] = []
    listening = await asyncpg.connect(url)
    notified: asyncio.Queue[str] = asyncio.Queue()
    try:
        await listening.add_listener(
            PIPELINES_CHANNEL, lambda *message: notified.put_nowait(str(message[-1]))
        )
        request = pb.WatchPipelineRequest(pipeline_id=pipeline_id)
        async with (
            asyncio.timeout(seconds + _PATIENCE),
            aclosing(service.client.watch_pipeline(request)) as answers,
        ):
            await anext(answers)
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                await asyncio.sleep(source.uniform(*_PAUSE))
                text = f"change {len(told)}"

                async def see_bare(began: float) -> None:
                    while await notified.get() != pipeline_id:
                        pass
                    await service.bare.get(pipeline_id)
                    bare.append((time.perf_counter() - began) * 1000)

                began = time.perf_counter()
                seeing = asyncio.create_task(see_bare(began))
                await listening.execute(
                    "UPDATE pipesync.pipelines SET status_message = $2 WHERE id = $1",
                    pipeline_id,
                    text,
                )
                while (await anext(answers)).pipeline.status_message != text:
                    pass
                told.append((time.perf_counter() - began) * 1000)
                await seeing
    finally:
        await listening.close()
    return told, bare
