"""Continuous pipelines while servers are killed and databases fail: nothing is lost.

For some seconds here, and for three minutes by ``make chaos``. Some accounts are odd: their events
come in an old API version, their objects cannot be looked up, their values are refused by the
tables, their clocks are not the machine's. Their pipelines are as ready as the others.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from pipesync_client import EngineClient, PipelineClient
from tests.leaks import leaks
from tests.soak.chaos import Chaos
from tests.soak.failing_postgres import FailingPostgres
from tests.soak.fleet import Fleet, fleet
from tests.soak.mortal import MortalServer, mortal
from tests.soak.overlaps import Overlap, Span, late_commits, overlaps, spans

SECONDS = float(os.environ.get("CHAOS_SECONDS", "15"))
PIPELINES = 20
CHANGES_A_SECOND = 1.5
SEED = 20_261_203
# Servers stand still for up to eight seconds: longer than a lease, and than a step with a lease.
PACE = {
    "--lease-seconds": "3",
    "--step-seconds": "2",
    "--poll-seconds": "4",
    "--retry-seconds": "0.3",
    "--longest-retry-seconds": "2",
}
# What an engine that stood still may take to notice that the time of its sync is up.
WAKING_SECONDS = 1.0
# What a commit that was under way as its sync was cut may take to be heard of.
LATE_SECONDS = 1.0

pytestmark = pytest.mark.timeout(4 * SECONDS + 300)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Where it all takes place."""

    engines: Sequence[MortalServer]
    services: Sequence[MortalServer]
    fleet: Fleet
    chaos: Chaos

    @property
    def servers(self) -> list[MortalServer]:
        return [*self.engines, *self.services]

    async def go_through(self) -> None:
        """Lets the accounts change while servers are killed and stand still."""
        reign = asyncio.create_task(self.chaos.reign())
        changes = asyncio.create_task(self.fleet.change(seconds=SECONDS, rate=CHANGES_A_SECOND))
        try:
            await changes
        finally:
            changes.cancel()
            self.chaos.end()
            await reign

    async def settle(self) -> int:
        """Waits until all is as it should be.

        Returns:
            How many webhooks were acknowledged, each of which is applied.
        """
        await self.fleet.until_told(seconds=60)
        await self.fleet.until_true(seconds=120)
        webhooks = await self.fleet.until_applied(seconds=60)
        await self.fleet.until_ready(seconds=60)
        # What was true stays so.
        await self.fleet.until_true(seconds=0)
        return webhooks

    async def syncs(self) -> list[Span]:
        """Every sync of every engine, after the servers have ended."""
        for server in self.servers:
            await server.stop()
        return [span for engine in self.engines for span in spans(engine)]

    def count(self, event: str) -> int:
        """How often any server logged it."""
        return sum(
            logged["event"] == event
            for server in self.servers
            for life in server.lives
            for logged in life.process.events
        )


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """Two services, one of them behind a pooler, two engines, and pipelines still to be created."""
    async with AsyncExitStack() as stack:
        databases = [
            await stack.enter_async_context(FailingPostgres.open(name))
            for name in ("store", "destination")
        ]
        store, destination = databases
        store_urls = store.url, await stack.enter_async_context(store.pooled())
        engines = [
            await stack.enter_async_context(mortal(MortalServer("engine_server", name=name)))
            for name in ("engine 1", "engine 2")
        ]
        flags = {"--engine": _all(engines), "--data-dir": str(tmp_path), **PACE}
        services = [
            MortalServer(
                "service_server",
                [part for flag in flags.items() for part in flag],
                {"PIPESYNC_DATABASE_URL": url},
                name=name,
            )
            for name, url in zip(("service 1", "service 2"), store_urls, strict=True)
        ]
        for service in services:
            await stack.enter_async_context(mortal(service))
        client = await stack.enter_async_context(PipelineClient(_all(services)))
        pipelines = fleet(PIPELINES, services, client, destination.url, store.url, seed=SEED)
        yield Scene(
            engines=engines,
            services=services,
            fleet=await stack.enter_async_context(pipelines),
            chaos=Chaos([*engines, *services], databases, seed=SEED),
        )
        for server in (*engines, *services):
            _write_log(server, tmp_path / f"{server.name}.log")
        await leaks.search_database(store.url)


async def test_pipelines_come_through_chaos_unharmed(scene: Scene) -> None:
    clock = asyncio.get_running_loop().time
    began = clock()
    async with EngineClient(scene.engines[0].address) as engine:
        await scene.fleet.refuse_rows(engine)
    await scene.fleet.create()
    await scene.fleet.until_ready(seconds=120)
    ready = clock()
    await scene.go_through()
    calm = clock()
    webhooks = await scene.settle()
    rejected = await scene.fleet.until_rejections_are_shown(seconds=60)
    set_aside = await scene.fleet.set_aside()
    settled = clock()
    syncs = await scene.syncs()
    overlapping = overlaps(syncs)
    late = [seconds for engine in scene.engines for seconds in late_commits(engine)]
    _log.info(
        "chaos_survived",
        seconds_to_ready=round(ready - began, 1),
        seconds_of_chaos=round(calm - ready, 1),
        seconds_to_settle=round(settled - calm, 1),
        **scene.chaos.done,
        changes=scene.fleet.changes(),
        webhooks=webhooks,
        rejected=rejected,
        set_aside=set_aside,
        syncs=len(syncs),
        turns_lost=scene.count("turn_lost"),
        connectors_left=scene.count("connector_does_not_stop"),
        seconds_awake_in_overlaps=[round(one.seconds_awake, 3) for one in overlapping],
        commits_late_by_seconds=[round(seconds, 3) for seconds in late],
    )
    assert rejected
    assert set_aside
    assert sum(scene.chaos.done.values()) > SECONDS / 5
    assert len(syncs) > PIPELINES
    assert [overlap for overlap in overlapping if not _is_harmless(overlap)] == []
    assert max(late, default=0.0) < LATE_SECONDS


def _is_harmless(overlap: Overlap) -> bool:
    """Whether the first sync stood still, and ended as soon as it did so no more.

    Nobody can end it before: its engine hears of nothing. The second one may begin at any moment of
    this, also between the waking and the end.
    """
    return overlap.seconds_after_waking < WAKING_SECONDS


def _write_log(server: MortalServer, path: Path) -> None:
    """Leaves what it logged to whoever looks into a failure."""
    events = [event for life in server.lives for event in life.process.events]
    path.write_text("".join(json.dumps(event) + "\n" for event in events))


def _all(servers: Sequence[MortalServer]) -> str:
    """An address that leads to all of them in turn."""
    return "ipv4:" + ",".join(server.address for server in servers)
