"""Many continuous pipelines, each with an account and a schema of its own."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from tests.end_to_end.stripe_pipeline import StripePipeline, selections
from tests.soak.business import STREAMS, Business
from tests.soak.comparison import differences
from tests.soak.mortal import MortalServer
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

PLAN = SeedPlan(
    counts={
        "charges": 60,
        "coupons": 20,
        "customers": 120,
        "invoices": 40,
        "payment_intents": 30,
        "prices": 20,
        "products": 20,
        "subscriptions": 30,
    }
)
# Events show up in lists so much later at most, and webhooks come so much out of order.
_LATEST_SECONDS = 1.0
_DUPLICATES = 0.1
# A service that stands still is not waited for.
_ANSWER_SECONDS = 3.0
_LOOK_AGAIN_SECONDS = 0.3
_APPLIED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One pipeline.

    Attributes:
        id: Its id, which is its schema, too.
        simulator: Its account.
        business: What goes on there.
        config: Its configuration.
        takes_webhooks: Whether the account tells what happens by webhook, too.
    """

    id: str
    simulator: StripeSimulator
    business: Business
    config: StripePipeline
    takes_webhooks: bool

    async def differences(self) -> list[str]:
        """One line for each row that is not what it should be."""
        return await differences(
            self.simulator, self.business.gone, self.config.database_url, schema=self.id
        )

    def acknowledged(self) -> set[str]:
        """The ids of the events that a service took in, as it said."""
        attempts = self.simulator.deliveries.attempts
        return {attempt.event_id for attempt in attempts if attempt.status == 200}


class Fleet:
    """All of them.

    Attributes:
        members: One by one.
    """

    def __init__(self, members: Sequence[Member], client: PipelineClient) -> None:
        self.members = members
        self._client = client

    async def create(self) -> None:
        """Makes the pipelines, which run by themselves from then on."""
        for member in self.members:
            pipeline = pb.Pipeline(
                id=member.id,
                config=member.config.config(),
                sync_policy=pb.SYNC_POLICY_CONTINUOUS,
            )
            request = pb.CreatePipelineRequest(pipeline=pipeline, skip_check=True)
            await self._client.create_pipeline(request)

    async def until_ready(self, *, seconds: float) -> None:
        """Waits until every pipeline is shown as READY."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    shown = await self._shown()
                    busy = [one for one in shown if one.status != pb.PIPELINE_STATUS_READY]
                    if len(shown) == len(self.members) and not busy:
                        return
                    await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        except TimeoutError:
            told = [
                (one.id, pb.PipelineStatus.Name(one.status), one.status_message) for one in busy
            ]
            raise AssertionError(f"not ready in {seconds} s: {told}") from None

    async def change(self, *, seconds: float, rate: float) -> None:
        """Lets every account change for so long, so many times a second each."""
        async with asyncio.TaskGroup() as changing:
            for member in self.members:
                changing.create_task(member.business.go_on(seconds=seconds, rate=rate))

    def changes(self) -> int:
        """How many there were, all accounts together."""
        return sum(member.business.changes for member in self.members)

    async def until_told(self, *, seconds: float) -> None:
        """Waits until every delivery is acknowledged, and every event is listed."""
        async with asyncio.timeout(seconds):
            for member in self.members:
                await member.simulator.deliveries.settled()
        await asyncio.sleep(_LATEST_SECONDS)

    async def until_true(self, *, seconds: float) -> None:
        """Waits until every table is as its account."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        for member in self.members:
            while wrong := await member.differences():
                told = "\n".join(wrong[:20])
                assert loop.time() < deadline, f"{member.id}: {len(wrong)} rows differ:\n{told}"
                await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    async def until_applied(self, service_database_url: str, *, seconds: float) -> int:
        """Waits until every event that was acknowledged is in the inbox, and applied.

        Returns:
            How many they are.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        count = 0
        connection = await asyncpg.connect(service_database_url)
        try:
            for member in self.members:
                acknowledged = member.acknowledged()
                while missing := acknowledged - await _applied(connection, member.id):
                    assert loop.time() < deadline, f"{member.id}: not applied: {missing}"
                    await asyncio.sleep(_LOOK_AGAIN_SECONDS)
                count += len(acknowledged)
        finally:
            await connection.close()
        return count

    async def _shown(self) -> Collection[pb.Pipeline]:
        """The pipelines; none while no service answers."""
        request = pb.ListPipelinesRequest(page_size=1000)
        try:
            answer = await self._client.list_pipelines(request, timeout=_ANSWER_SECONDS)
        except RpcError:
            return []
        return answer.pipelines


@asynccontextmanager
async def fleet(
    count: int,
    services: Sequence[MortalServer],
    client: PipelineClient,
    database_url: str,
    *,
    seed: int,
) -> AsyncIterator[Fleet]:
    """Accounts that are served for the length of the block; half of them with webhooks."""
    async with AsyncExitStack() as stack:
        members = []
        for number in range(count):
            account_id = f"acct_{number:02}"
            simulator = StripeSimulator(PLAN, account_id=account_id)
            await stack.enter_async_context(simulator)
            simulator.delay_events(_LATEST_SECONDS, seed=seed + number)
            source: dict[str, Any] = {"poll_events": True}
            member_id = f"fleet_{number:02}"
            takes_webhooks = number % 2 == 0
            if takes_webhooks:
                service = services[number // 2 % len(services)]
                url = f"{service.http_address}/webhooks/{member_id}"
                source["webhook_secret"] = simulator.register_webhook(url)["secret"]
                simulator.deliveries.disturb(
                    duplicates=_DUPLICATES, reorder=_LATEST_SECONDS, seed=seed + number
                )
            members.append(
                Member(
                    id=member_id,
                    simulator=simulator,
                    business=Business(simulator, seed=seed + number),
                    config=StripePipeline(
                        simulator=simulator,
                        database_url=database_url,
                        streams=selections(*STREAMS),
                        schema=member_id,
                        source=source,
                    ),
                    takes_webhooks=takes_webhooks,
                )
            )
        yield Fleet(members, client)


async def _applied(connection: "asyncpg.Connection[asyncpg.Record]", pipeline_id: str) -> set[str]:
    rows = await connection.fetch(
        "SELECT event_id FROM pipesync.webhook_events WHERE pipeline_id = $1 AND status = $2",
        pipeline_id,
        _APPLIED,
    )
    return {row["event_id"] for row in rows}
