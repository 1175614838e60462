"""An account changes all the time, and the engine is killed now and then: the tables stay true.

Each way that events come in is soaked for a few seconds here, and for a minute by ``make soak``.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest

from pipesync_client import EngineClient
from tests.end_to_end.stripe_pipeline import StripePipeline, selections
from tests.soak.business import STREAMS, Business
from tests.soak.comparison import differences
from tests.soak.follower import Follower
from tests.soak.mortal import MortalServer, mortal
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

SECONDS = float(os.environ.get("SOAK_SECONDS", "6"))
CHANGES_A_SECOND = 50.0
# Events show up in lists so much later at most, and webhooks come so much out of order.
LATEST = 2.0
PLAN = SeedPlan(
    counts={
        "charges": 800,
        "coupons": 40,
        "customers": 1500,
        "invoices": 400,
        "payment_intents": 300,
        "prices": 60,
        "products": 60,
        "subscriptions": 250,
    }
)
SEED = 20_261_127

pytestmark = pytest.mark.timeout(4 * SECONDS + 120)


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    """What is soaked, and with what."""

    simulator: StripeSimulator
    business: Business
    engine: MortalServer
    client: EngineClient
    pipeline: StripePipeline
    follower: Follower

    async def go_through(self, following: Coroutine[Any, Any, None]) -> None:
        """Lets the account change while it is followed, and while engines die."""
        random = Random(SEED)  # noqa: S311 - repeatable on purpose
        deaths = asyncio.create_task(self.engine.die_now_and_then(random, least=1.5, most=4))
        follows = asyncio.create_task(following)
        changes = asyncio.create_task(self.business.go_on(seconds=SECONDS, rate=CHANGES_A_SECOND))
        try:
            done, _ = await asyncio.wait(
                {deaths, follows, changes}, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                task.result()
            assert changes in done
            deaths.cancel()
            await asyncio.gather(deaths, return_exceptions=True)
            await self._settle(follows)
        finally:
            for task in (deaths, follows, changes):
                task.cancel()
            await asyncio.gather(deaths, follows, changes, return_exceptions=True)
        assert self.engine.deaths >= SECONDS // 6
        assert self.business.changes == int(SECONDS * CHANGES_A_SECOND)

    async def _settle(self, follows: asyncio.Task[None]) -> None:
        """Waits until everything that was told has been taken."""
        settled = asyncio.create_task(self._all_taken())
        await asyncio.wait({settled, follows}, return_when=asyncio.FIRST_COMPLETED)
        if follows.done():
            follows.result()
        await settled

    async def _all_taken(self) -> None:
        await self.simulator.deliveries.settled()
        if self.pipeline.source.get("websocket"):
            await self.simulator.cli_sessions.last_settled()
        # What is listed late is listed by then.
        await asyncio.sleep(LATEST)

    async def assert_tables_are_true(self, *, all_was_told: bool = True) -> None:
        wrong = await differences(
            self.simulator,
            self.business.gone,
            self.pipeline.database_url,
            all_was_told=all_was_told,
        )
        told = "\n".join(wrong[:20])
        assert not wrong, f"{len(wrong)} rows differ after {self.business.changes} changes:\n{told}"


@asynccontextmanager
async def soaking(
    database_url: str, *, webhooks: bool = False, **source: Any
) -> AsyncIterator[Soak]:
    """An account with a history, and a pipeline that nobody has run yet."""
    async with (
        StripeSimulator(PLAN) as simulator,
        mortal(MortalServer("engine_server")) as engine,
        EngineClient(engine.address) as client,
    ):
        simulator.delay_events(LATEST, seed=SEED)
        if webhooks:
            port = _free_port()
            endpoint = simulator.register_webhook(f"http://127.0.0.1:{port}/")
            simulator.deliveries.disturb(duplicates=0.1, reorder=LATEST, seed=SEED)
            source |= {"webhook_port": port, "webhook_secret": endpoint["secret"]}
        pipeline = StripePipeline(
            simulator=simulator,
            database_url=database_url,
            streams=selections(*STREAMS),
            source=source,
        )
        yield Soak(
            simulator=simulator,
            business=Business(simulator, seed=SEED),
            engine=engine,
            client=client,
            pipeline=pipeline,
            follower=Follower(client, pipeline.config()),
        )


async def test_by_polling(database_url: str) -> None:
    async with soaking(database_url, poll_events=True) as soak:

        async def follow() -> None:
            await soak.follower.finish(run_id="backfill", state_limit=20)
            await soak.follower.poll(every=0.5)

        await soak.go_through(follow())
        # On a slow machine the engine may have died too often to come to the end of it.
        await soak.follower.finish(run_id="backfill", state_limit=20)
        await soak.follower.finish(events_only=True)
        await soak.assert_tables_are_true()


async def test_by_webhook(database_url: str) -> None:
    async with soaking(database_url, webhooks=True) as soak:
        await soak.go_through(soak.follower.listen())
        await soak.assert_tables_are_true()


async def test_by_websocket(database_url: str) -> None:
    async with soaking(database_url, websocket=True) as soak:
        await soak.go_through(soak.follower.listen())
        # What happened while no engine was connected nobody is told again: reconciling finds it.
        await soak.follower.finish(run_id="reconcile", reconcile=True)
        await soak.assert_tables_are_true(all_was_told=False)


async def test_by_all_three_at_once(database_url: str) -> None:
    async with soaking(database_url, webhooks=True, websocket=True, poll_events=True) as soak:
        await soak.go_through(soak.follower.listen())
        await soak.follower.finish(events_only=True)
        await soak.assert_tables_are_true()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
