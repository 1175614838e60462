"""Continuous pipelines while servers are killed and databases fail: no change is lost.

It runs for some seconds here, and for three minutes by ``make chaos``. Some accounts are odd: their
events have an old API version, their objects cannot be looked up, their values are refused by the
tables, or their clocks differ from the machine's. Their pipelines become READY like the others.
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
# Servers are paused for up to eight seconds: longer than a lease, and than a step with a lease.
PACE = {
    "--lease-seconds": "3",
    "--step-seconds": "2",
    "--poll-seconds": "4",
    "--retry-seconds": "0.3",
    "--longest-retry-seconds": "2",
}
# The most seconds that an engine takes after a pause to notice that its sync's time is up.
WAKING_SECONDS = 1.0
# The most seconds after the end of a cut sync until a commit under way is logged.
LATE_SECONDS = 1.0

pytestmark = pytest.mark.timeout(4 * SECONDS + 300)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Servers, pipelines and faults of one test."""

    engines: Sequence[MortalServer]
    services: Sequence[MortalServer]
    fleet: Fleet
    chaos: Chaos

    @property
    def servers(self) -> list[MortalServer]:
        return [*self.engines, *self.services]

    async def go_through(self) -> None:
        """Change the accounts while servers are killed and paused."""
        reign = asyncio.create_task(self.chaos.reign())
        changes = asyncio.create_task(self.fleet.change(seconds=SECONDS, rate=CHANGES_A_SECOND))
        try:
            await changes
        finally:
            changes.cancel()
            self.chaos.end()
            await reign

    async def settle(self) -> int:
        """Wait until all tables, inboxes and statuses are right.

        Returns:
            The number of acknowledged webhooks, each of which is applied.
        """
        await self.fleet.until_told(seconds=60)
        await self.fleet.until_true(seconds=120)
        webhooks = await self.fleet.until_applied(seconds=60)
        await self.fleet.until_ready(seconds=60)
        # Tables that were right stay right.
        await self.fleet.until_true(seconds=0)
        return webhooks

    async def syncs(self) -> list[Span]:
        """Stop the servers, and return every sync of every engine."""
        for server in self.servers:
            await server.stop()
        return [span for engine in self.engines for span in spans(engine)]

    def count(self, event: str) -> int:
        """Return how often all servers together logged an event."""
        return sum(
            logged["event"] == event
            for server in self.servers
            for life in server.lives
            for logged in life.process.events
        )


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """Yield two services, one of them behind a pooler, two engines, and pipelines to be created."""
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
    """Return whether the first sync ended as soon as its engine could end it.

    A paused engine receives nothing; the second sync may begin at any moment of the pause, or
    between its end and the end of the first sync. An engine that gets little processor time is as
    late.
    """
    return min(overlap.seconds_after_waking, overlap.seconds_awake) < WAKING_SECONDS


def _write_log(server: MortalServer, path: Path) -> None:
    """Write a server's log to a file, for the analysis of a failure."""
    events = [event for life in server.lives for event in life.process.events]
    path.write_text("".join(json.dumps(event) + "\n" for event in events))


def _all(servers: Sequence[MortalServer]) -> str:
    """Return an address that leads to all servers in turn."""
    return "ipv4:" + ",".join(server.address for server in servers)
