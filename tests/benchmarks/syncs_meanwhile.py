"""Syncs that run through a service while something else is measured there."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import PipelineConfig
from pipesync_client import PipelineClient
from tests.benchmarks.contenders import pipeline_of
from tests.benchmarks.registered_service import WEBHOOK_SECRET
from tests.benchmarks.stripe_account import Account

# The source's own rate limit at Stripe, for one key in test mode.
REQUESTS_A_SECOND = 20


class Syncs:
    """Syncs of pipelines, each begun anew at its end.

    Attributes:
        records: Number of records committed so far.
    """

    def __init__(self, client: PipelineClient, pipeline_ids: Sequence[str]) -> None:
        self._client = client
        self._pipeline_ids = pipeline_ids
        self._began = time.perf_counter()
        self._running = 0
        self._all_run = asyncio.Event()
        self.records = 0

    @property
    def rate(self) -> float:
        """Return the records a second, from the beginning until now."""
        return self.records / (time.perf_counter() - self._began)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sync for the length of the body, which begins once each pipeline has committed records.

        Raises:
            ExceptionGroup: A sync failed.
        """
        async with asyncio.TaskGroup() as syncs:
            tasks = [syncs.create_task(self._sync(one)) for one in self._pipeline_ids]
            await self._all_run.wait()
            self._began, self.records = time.perf_counter(), 0
            yield
            for task in tasks:
                task.cancel()

    async def _sync(self, pipeline_id: str) -> None:
        is_first = True
        while True:
            request = pb.SyncPipelineRequest(pipeline_id=pipeline_id, reset_state=True)
            counted = 0
            async with aclosing(self._client.sync_pipeline(request)) as answers:
                async for answer in answers:
                    if not answer.message.HasField("progress"):
                        continue
                    committed = sum(
                        one.record_count for one in answer.message.progress.streams.values()
                    )
                    self.records += committed - counted
                    counted = committed
                    if committed and is_first:
                        is_first = False
                        self._running += 1
                        if self._running == len(self._pipeline_ids):
                            self._all_run.set()


async def create_pipelines(
    client: PipelineClient,
    account: Account,
    database_url: str,
    names: Sequence[str],
    sync_policy: pb.SyncPolicy.ValueType = pb.SYNC_POLICY_MANUAL,
) -> None:
    """Create and set up pipelines that take webhooks, each into a schema of its name."""
    for name in names:
        config = _config(account, database_url, name)
        pipeline = pb.Pipeline(id=name, config=config, sync_policy=sync_policy)
        await client.create_pipeline(pb.CreatePipelineRequest(pipeline=pipeline, skip_check=True))
        if sync_policy == pb.SYNC_POLICY_MANUAL:
            async for _ in client.setup_pipeline(pb.SetupPipelineRequest(pipeline_id=name)):
                pass


def _config(account: Account, database_url: str, name: str) -> PipelineConfig:
    config = pipeline_of(account, database_url)
    config.destination.config["schema"] = name
    config.source.config["webhook_secret"] = WEBHOOK_SECRET
    # As at Stripe itself: all pipelines with one key share it.
    config.source.config["rate_limit"] = REQUESTS_A_SECOND
    return config
