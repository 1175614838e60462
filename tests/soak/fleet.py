"""Fleet of continuous pipelines, each with its own account and schema."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.engine_service_pb2 import PipelineSetupRequest
from pipesync_client import EngineClient, PipelineClient
from pipesync_rpc.errors import RpcError
from tests.end_to_end.stripe_pipeline import StripePipeline, selections
from tests.soak.business import STREAMS, Business
from tests.soak.comparison import Told, differences, rejected_records
from tests.soak.mortal import MortalServer
from tests.soak.oddities import OLD_VERSION, Oddities, refuse_lookups, refuse_rows, some_of
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
# The most seconds by which events appear late in lists, and by which webhooks are out of order.
_LATEST_SECONDS = 1.0
_DUPLICATES = 0.1
# Seconds to wait for an answer, so that a paused service is not waited for.
_ANSWER_SECONDS = 3.0
_LOOK_AGAIN_SECONDS = 0.3
_APPLIED = 2
_SET_ASIDE = 3
# Seconds by which the clocks of some accounts are ahead of the machine's.
_SKEWS = (-90.0, -15.0, -3.0, 4.0, 40.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One pipeline with its account.

    Attributes:
        id: Its id, which is its schema, too.
        simulator: Its account.
        business: The changes to its account.
        config: Its configuration.
        takes_webhooks: Whether the account sends webhooks, too.
        is_old: Whether the account's events have an old API version.
    """

    id: str
    simulator: StripeSimulator
    business: Business
    config: StripePipeline
    takes_webhooks: bool
    is_old: bool

    async def differences(self, set_aside: set[str]) -> list[str]:
        """Return a line for each wrong row, and each event that should not be a dead letter."""
        told = Told(whole_deletions=not self.is_old, dead_letters=set_aside)
        url = self.config.database_url
        found = await differences(self.simulator, self.business, url, told, schema=self.id)
        strangers = set_aside - self.business.events_of(self.business.unshown)
        return [*found, *(f"{event_id}: is set aside" for event_id in strangers)]

    async def held_rejected(self) -> int:
        """Return the number of records listed as rejected."""
        listed = await rejected_records(self.config.database_url, schema=self.id)
        return sum(map(len, listed.values()))

    def acknowledged(self) -> set[str]:
        """Return the ids of the events that a service acknowledged."""
        attempts = self.simulator.deliveries.attempts
        return {attempt.event_id for attempt in attempts if attempt.status == 200}

    def refusals(self) -> dict[str, list[int]]:
        """Return the status of each attempt, 0 for none, of every event not acknowledged yet."""
        attempts = self.simulator.deliveries.attempts
        tried = {attempt.event_id for attempt in attempts}
        return {
            event_id: [attempt.status for attempt in attempts if attempt.event_id == event_id]
            for event_id in sorted(tried - self.acknowledged())
        }


class Fleet:
    """Pipelines of all accounts.

    Attributes:
        members: Each pipeline with its account.
    """

    def __init__(
        self, members: Sequence[Member], client: PipelineClient, service_database_url: str
    ) -> None:
        self.members = members
        self._client = client
        self._service_database_url = service_database_url

    async def create(self) -> None:
        """Create the pipelines, which are continuous."""
        for member in self.members:
            pipeline = pb.Pipeline(
                id=member.id,
                config=member.config.config(),
                sync_policy=pb.SYNC_POLICY_CONTINUOUS,
            )
            request = pb.CreatePipelineRequest(pipeline=pipeline, skip_check=True)
            await self._client.create_pipeline(request)

    async def until_ready(self, *, seconds: float) -> None:
        """Wait until every pipeline is shown as READY."""
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

    async def refuse_rows(self, engine: EngineClient) -> None:
        """Create the tables of accounts with refused values, and make them refuse the values."""
        for member in self.members:
            if member.business.oddities.rejections:
                setup = PipelineSetupRequest(pipeline=member.config.config())
                [_ async for _ in engine.pipeline_setup(setup)]
                await refuse_rows(member.config.database_url, schema=member.id)

    async def until_rejections_are_shown(self, *, seconds: float) -> int:
        """Wait until each pipeline's status shows its number of rejected records.

        Returns:
            The number of rejected records of all pipelines together.
        """
        held = {member.id: await member.held_rejected() for member in self.members}
        try:
            async with asyncio.timeout(seconds):
                while True:
                    messages = {one.id: one.status_message for one in await self._shown()}
                    if messages.keys() == held.keys() and all(
                        _says(messages[name], count) for name, count in held.items()
                    ):
                        return sum(held.values())
                    await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        except TimeoutError:
            wrong = {
                name: (count, messages.get(name))
                for name, count in held.items()
                if not _says(messages.get(name, ""), count)
            }
            raise AssertionError(f"not shown as rejected in {seconds} s: {wrong}") from None

    async def change(self, *, seconds: float, rate: float) -> None:
        """Make ``rate`` changes a second to every account for ``seconds`` seconds."""
        async with asyncio.TaskGroup() as changing:
            for member in self.members:
                changing.create_task(member.business.go_on(seconds=seconds, rate=rate))

    def changes(self) -> int:
        """Return the number of changes to all accounts together."""
        return sum(member.business.changes for member in self.members)

    async def until_told(self, *, seconds: float) -> None:
        """Wait until every delivery is acknowledged and every event is listed."""
        try:
            async with asyncio.timeout(seconds):
                for member in self.members:
                    await member.simulator.deliveries.settled()
        except TimeoutError:
            refused = {one.id: one.refusals() for one in self.members if one.refusals()}
            raise AssertionError(f"not acknowledged in {seconds} s: {refused}") from None
        await asyncio.sleep(_LATEST_SECONDS)

    async def until_true(self, *, seconds: float) -> None:
        """Wait until every table equals its account."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        connection = await asyncpg.connect(self._service_database_url)
        try:
            for member in self.members:
                while wrong := await member.differences(
                    await _events(connection, member.id, _SET_ASIDE)
                ):
                    told = "\n".join(wrong[:20])
                    assert loop.time() < deadline, f"{member.id}: {len(wrong)} differ:\n{told}"
                    await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        finally:
            await connection.close()

    async def set_aside(self) -> int:
        """Return the number of dead-lettered events of all pipelines together."""
        connection = await asyncpg.connect(self._service_database_url)
        try:
            ids = [await _events(connection, one.id, _SET_ASIDE) for one in self.members]
        finally:
            await connection.close()
        return sum(map(len, ids))

    async def until_applied(self, *, seconds: float) -> int:
        """Wait until every acknowledged event is in the inbox, and applied or dead-lettered.

        Returns:
            The number of acknowledged events.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        count = 0
        connection = await asyncpg.connect(self._service_database_url)
        try:
            for member in self.members:
                acknowledged = member.acknowledged()
                while missing := acknowledged - await _events(
                    connection, member.id, _APPLIED, _SET_ASIDE
                ):
                    assert loop.time() < deadline, f"{member.id}: not applied: {missing}"
                    await asyncio.sleep(_LOOK_AGAIN_SECONDS)
                count += len(acknowledged)
        finally:
            await connection.close()
        return count

    async def _shown(self) -> Collection[pb.Pipeline]:
        """Return the pipelines; none while no service answers."""
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
    service_database_url: str,
    *,
    seed: int,
) -> AsyncIterator[Fleet]:
    """Serve accounts for the length of the block, half of them with webhooks.

    Some are odd: a third of them have events in an old API version, and two thirds of these have
    objects that cannot be looked up; another third have values that their tables refuse; and half
    of all have a clock that differs from the machine's.
    """
    async with AsyncExitStack() as stack:
        members = []
        for number in range(count):
            account_id = f"acct_{number:02}"
            simulator = StripeSimulator(PLAN, account_id=account_id)
            await stack.enter_async_context(simulator)
            simulator.delay_events(_LATEST_SECONDS, seed=seed + number)
            oddities = _oddities(number, simulator)
            refuse_lookups(simulator, oddities.unshown)
            if is_old := number % 3 == 0:
                simulator.set_default_version(OLD_VERSION)
            if number % 4 > 1:
                simulator.clock.skew = _SKEWS[number // 4 % len(_SKEWS)]
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
                    business=Business(simulator, seed=seed + number, oddities=oddities),
                    config=StripePipeline(
                        simulator=simulator,
                        database_url=database_url,
                        streams=selections(*STREAMS),
                        schema=member_id,
                        source=source,
                    ),
                    takes_webhooks=takes_webhooks,
                    is_old=is_old,
                )
            )
        yield Fleet(members, client, service_database_url)


def _oddities(number: int, simulator: StripeSimulator) -> Oddities:
    # Those with an old API version; of these one polls alone, and the next takes webhooks, too.
    has_unshown = number % 9 in (0, 3)
    streams = ("charges", "customers", "invoices", "products")
    return Oddities(
        characters=number % 2 == 0,
        rejections=number % 3 == 1,
        unshown=some_of(simulator, *streams, each=2) if has_unshown else {},
    )


def _says(message: str, rejected: int) -> bool:
    """Return whether a status message states the number of rejected records."""
    if rejected == 0:
        return "rejected" not in message
    return f"{rejected} record is rejected" in message or f"{rejected} records are" in message


async def _events(
    connection: "asyncpg.Connection[asyncpg.Record]", pipeline_id: str, *statuses: int
) -> set[str]:
    """Return the ids of the events in a pipeline's inbox that have one of these statuses."""
    rows = await connection.fetch(
        "SELECT event_id FROM pipesync.webhook_events"
        " WHERE pipeline_id = $1 AND status = ANY ($2::int[])",
        pipeline_id,
        list(statuses),
    )
    return {row["event_id"] for row in rows}
