"""Account that changes all the time while the engine is killed at random: the tables stay right.

Each way in for events is soaked for a few seconds here, and for a minute by ``make soak``. The
account is odd: part of its events have an old API version, some look-ups are refused, some values
cannot be stored or are refused by the tables, and its clock differs from the machine's.
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

from engine_server.connectors.stripe.catalog.streams import api_version
from pipesync.v1.engine_service_pb2 import PipelineSetupRequest
from pipesync_client import EngineClient
from tests.end_to_end.stripe_pipeline import StripePipeline, selections
from tests.soak.business import STREAMS, Business
from tests.soak.comparison import Told, differences, rejected_records
from tests.soak.follower import Follower
from tests.soak.mortal import MortalServer, mortal
from tests.soak.oddities import OLD_VERSION, Oddities, refuse_lookups, refuse_rows, some_of
from tests.stripe_simulator.event_types import known_types
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

SECONDS = float(os.environ.get("SOAK_SECONDS", "6"))
CHANGES_A_SECOND = 50.0
# The most seconds by which events appear late in lists, and by which webhooks are out of order.
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
# The number of changes after which the account's default API version changes.
VERSION_LASTS = 40
# The types of events that a webhook endpoint of an old API version receives.
TOLD_IN_OLD_VERSION = ("customer.", "invoice.", "product.")
# The number of polls that try a failing event.
ATTEMPTS = 5

pytestmark = pytest.mark.timeout(4 * SECONDS + 120)


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    """Account, engine and caller of one soak."""

    simulator: StripeSimulator
    business: Business
    engine: MortalServer
    client: EngineClient
    pipeline: StripePipeline
    follower: Follower

    async def go_through(self, following: Coroutine[Any, Any, None]) -> None:
        """Change the account while the follower applies the changes and engines are killed."""
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
        # On a slow machine an engine takes seconds to start again.
        assert self.engine.deaths >= max(1, SECONDS // 20)
        assert self.business.changes == int(SECONDS * CHANGES_A_SECOND)

    async def _settle(self, follows: asyncio.Task[None]) -> None:
        """Wait until every delivered event has been taken."""
        settled = asyncio.create_task(self._all_taken())
        await asyncio.wait({settled, follows}, return_when=asyncio.FIRST_COMPLETED)
        if follows.done():
            follows.result()
        await settled

    async def _all_taken(self) -> None:
        if self.pipeline.source.get("websocket"):
            # The engine waits for minutes before it retries events that fail.
            for event_id in self.business.events_of(self.business.unshown):
                self.simulator.deliveries.give_up(event_id)
                self.simulator.cli_sessions.give_up(event_id)
        await self.simulator.deliveries.settled()
        if self.pipeline.source.get("websocket"):
            await self.simulator.cli_sessions.last_settled()
        # Events that are listed late are listed by then.
        await asyncio.sleep(LATEST)

    async def poll_to_the_end(self) -> None:
        """Poll until events that keep failing are dead-lettered."""
        for _ in range(ATTEMPTS):
            await self.follower.finish(events_only=True)

    async def assert_tables_are_true(self, *, all_was_told: bool = True) -> None:
        dead_letters = self.follower.dead_letters
        told = Told(every_event=all_was_told, whole_deletions=False, dead_letters=dead_letters)
        url = self.pipeline.database_url
        wrong = await differences(self.simulator, self.business, url, told)
        told_lines = "\n".join(wrong[:20])
        assert not wrong, (
            f"{len(wrong)} rows differ after {self.business.changes} changes:\n{told_lines}"
        )
        assert dead_letters.keys() <= self.business.events_of(self.business.unshown)
        listed = sum(map(len, (await rejected_records(url)).values()))
        assert listed, "nothing was rejected"
        assert self.follower.held_rejected in (None, listed)


@asynccontextmanager
async def soaking(
    database_url: str, *, skew: float, webhooks: bool = False, **source: Any
) -> AsyncIterator[Soak]:
    """Yield an account with a history, and a pipeline that was never run."""
    async with (
        StripeSimulator(PLAN) as simulator,
        mortal(MortalServer("engine_server")) as engine,
        EngineClient(engine.address) as client,
    ):
        simulator.clock.skew = skew
        simulator.delay_events(LATEST, seed=SEED)
        if webhooks:
            port = _free_port()
            secrets = _register_webhooks(simulator, f"http://127.0.0.1:{port}/")
            simulator.deliveries.disturb(duplicates=0.1, reorder=LATEST, seed=SEED)
            source |= {"webhook_port": port, "webhook_secret": secrets}
        pipeline = StripePipeline(
            simulator=simulator,
            database_url=database_url,
            streams=selections(*STREAMS),
            source=source,
        )
        unshown = some_of(simulator, "charges", "customers", "invoices", "products", each=3)
        refuse_lookups(simulator, unshown)
        oddities = Oddities(
            characters=True, rejections=True, version_lasts=VERSION_LASTS, unshown=unshown
        )
        business = Business(simulator, seed=SEED, oddities=oddities)
        setup = PipelineSetupRequest(pipeline=pipeline.config())
        [_ async for _ in client.pipeline_setup(setup)]
        await refuse_rows(database_url)
        yield Soak(
            simulator=simulator,
            business=business,
            engine=engine,
            client=client,
            pipeline=pipeline,
            follower=Follower(client, pipeline.config(), simulator.deliveries.give_up),
        )


def _register_webhooks(simulator: StripeSimulator, url: str) -> str:
    """Register an endpoint with an old API version for some events, and one with the rows'."""
    types = sorted(known_types())
    old = [name for name in types if name.startswith(TOLD_IN_OLD_VERSION)]
    simulator.set_default_version(OLD_VERSION)
    in_old_version = simulator.register_webhook(url, old)
    simulator.set_default_version(api_version())
    others = [name for name in types if name not in old]
    endpoints = (in_old_version, simulator.register_webhook(url, others))
    return ",".join(endpoint["secret"] for endpoint in endpoints)


async def test_by_polling(database_url: str) -> None:
    async with soaking(database_url, skew=-20, poll_events=True) as soak:

        async def follow() -> None:
            await soak.follower.finish(run_id="backfill", state_limit=20)
            await soak.follower.poll(every=0.5)

        await soak.go_through(follow())
        # On a slow machine the engine may have been killed too often to finish the backfill.
        await soak.follower.finish(run_id="backfill", state_limit=20)
        await soak.poll_to_the_end()
        assert soak.follower.dead_letters
        await soak.assert_tables_are_true()


async def test_by_webhook(database_url: str) -> None:
    async with soaking(database_url, skew=45, webhooks=True) as soak:
        await soak.go_through(soak.follower.listen())
        assert soak.follower.dead_letters
        await soak.assert_tables_are_true()


async def test_by_websocket(database_url: str) -> None:
    async with soaking(database_url, skew=-3, websocket=True) as soak:
        await soak.go_through(soak.follower.listen())
        # Events from while no engine was connected are not sent again: reconciling finds their
        # changes.
        await soak.follower.finish(run_id="reconcile", reconcile=True)
        await soak.assert_tables_are_true(all_was_told=False)


async def test_by_all_three_at_once(database_url: str) -> None:
    ways_in = {"webhooks": True, "websocket": True, "poll_events": True}
    async with soaking(database_url, skew=150, **ways_in) as soak:
        await soak.go_through(soak.follower.listen())
        await soak.poll_to_the_end()
        assert soak.follower.dead_letters
        await soak.assert_tables_are_true()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
