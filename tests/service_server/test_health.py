"""Tests for the health that a service reports while one of its loops stands still."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service_server.background.heartbeats import Loop
from service_server.bootstrap import running_service
from service_server.settings.service import ServiceSettings
from service_server.store.database import Database

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE = "pipesync.v1.PipelineService"


@dataclass(frozen=True)
class Views:
    """The health of the service as seen from outside."""

    http: aiohttp.ClientSession
    health: Any

    async def healthz(self) -> tuple[int, dict[str, Any]]:
        async with self.http.get("/healthz") as response:
            return response.status, await response.json()

    async def check(self, name: str = SERVICE) -> int:
        answer = await self.health.Check(health_pb2.HealthCheckRequest(service=name))
        return int(answer.status)

    async def metric(self, name: str, loop: str) -> float:
        async with self.http.get("/metrics") as response:
            text = await response.text()
        prefix = f'{name}{{loop="{loop}"}} '
        [line] = [line for line in text.splitlines() if line.startswith(prefix)]
        return float(line.removeprefix(prefix))

    async def until_healthy(self) -> None:
        async with asyncio.timeout(60):
            while (await self.healthz())[0] != 200:  # noqa: ASYNC110 - seen from outside
                await asyncio.sleep(0.05)

    async def until_named(self, loop: str) -> None:
        """Wait until /healthz names the loop; on a slow machine it may name others, too."""
        async with asyncio.timeout(60):
            while True:
                status, body = await self.healthz()
                if loop in body.get("loops", []):
                    assert status == 503
                    assert body["status"] == "a background loop stands still"
                    return
                await asyncio.sleep(0.05)


@pytest.fixture
async def views(settings: ServiceSettings) -> AsyncIterator[Views]:
    hasty = settings.model_copy(update={"loop_patience_seconds": 1.0, "http": "127.0.0.1:0"})
    async with (
        running_service(hasty) as service,
        aiohttp.ClientSession(service.http_address) as http,
        grpc.aio.insecure_channel(service.address) as channel,
    ):
        yield Views(http, health_pb2_grpc.HealthStub(channel))


async def test_a_loop_that_stands_still_is_reported_until_it_recovers(
    views: Views, database: Database
) -> None:
    await views.until_healthy()
    watch = views.health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    seen = [(await watch.read()).status]
    async with database.transaction() as connection:
        # The scheduler's statement waits for the end of this transaction.
        await connection.execute("LOCK TABLE pipesync.lifecycles IN ACCESS EXCLUSIVE MODE")
        await connection.execute("SELECT pg_notify('pipesync_due', '')")
        async with database.connection() as other:
            await other.execute("SELECT pg_notify('pipesync_due', '')")
        await views.until_named("scheduler")
        assert await views.check() == NOT_SERVING
        assert await views.check("") == NOT_SERVING
        assert await views.metric("pipesync_loop_stands_still", "scheduler") == 1
        assert await views.metric("pipesync_loop_last_round_age_seconds", "scheduler") > 1
        while seen[-1] != NOT_SERVING:
            seen.append((await watch.read()).status)
    await views.until_healthy()
    async with asyncio.timeout(60):
        while await views.check() != SERVING:  # noqa: ASYNC110 - the watch below has the event
            await asyncio.sleep(0.05)
        while seen[-1] != SERVING:
            seen.append((await watch.read()).status)
    watch.cancel()


async def test_a_killed_loop_is_reported(views: Views) -> None:
    await views.until_healthy()
    [task] = [
        task
        for task in asyncio.all_tasks()
        if "BackgroundLoop._run" in repr(task.get_coro())
        and task.get_coro().cr_frame.f_locals["self"]._loop is Loop.INBOX_WORKER  # type: ignore[union-attr]
    ]
    task.cancel()
    await views.until_named("inbox_worker")
    assert await views.check() == NOT_SERVING
