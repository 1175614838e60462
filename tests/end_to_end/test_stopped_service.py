"""A paused service, which keeps no sync running at the engine."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest

from tests.end_to_end.command import PipelinesCommand
from tests.processes import ServerProcess
from tests.stripe_simulator.faults import stall
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

# The least time left of a lease of 15 s that is renewed every 5 s.
LEAST_LEASE_SECONDS = 10.0
# Seconds that gRPC takes to notice a silent caller, and the engine to end a sync.
SILENCE_SECONDS = 7.0


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(SeedPlan(counts={"customers": 5})) as one:
        yield one


async def test_its_syncs_end_before_its_leases_do_and_not_while_it_lives(
    simulator: StripeSimulator, engine: ServerProcess, service: ServerProcess, database_url: str
) -> None:
    pipelines = PipelinesCommand(
        service=service.address, simulator=simulator, database_url=database_url
    )
    created = await pipelines.create("acme", ["customers"])
    assert created.exit_code == 0, created.stderr
    simulator.faults.add(stall(asyncio.Event()), path="/v1/customers", times=None)
    syncing = asyncio.create_task(pipelines("sync_batch", "acme"))
    await engine.wait_for("sync_started")
    with pytest.raises(RuntimeError, match="no 'sync_ended' in"):
        await engine.wait_for("sync_ended", timeout=1.5 * SILENCE_SECONDS)
    os.kill(service.pid, signal.SIGSTOP)
    try:
        await engine.wait_for("sync_ended", timeout=LEAST_LEASE_SECONDS)
    finally:
        os.kill(service.pid, signal.SIGCONT)
    assert (await syncing).exit_code != 0
