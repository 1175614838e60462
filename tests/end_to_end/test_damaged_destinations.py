"""Tables that were dropped, emptied or restored, and states that fell back, healed by a sync."""

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync.v1.state_pb2 import Eof, SyncState
from pipesync_client import EngineClient
from tests.end_to_end.damage import Backups, drop, truncate
from tests.end_to_end.stripe_pipeline import (
    RPCS,
    Rpc,
    StripePipeline,
    selections,
    served_engine,
)
from tests.end_to_end.tables import documents
from tests.engine_server.recorded.histories import CUT_COMPARISON, HISTORIES
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

# The streams that the shared histories call a and b.
STREAMS = {"a": "customers", "b": "products"}
PLAN = SeedPlan(counts={"customers": 230, "products": 120}, same_second={"customers": 30})
SMALL = SeedPlan(counts={"customers": 3, "products": 2})


@dataclass(kw_only=True)
class Damaged:
    """One pipeline and the damage done to it.

    Attributes:
        pipeline: The pipeline, which polls events.
        client: A client of the engine.
        state: The state that the caller has stored.
        takes_time: Whether more than a minute passes before each step. Polls read the last minute
            again, so steps within it exercise too little.
    """

    pipeline: StripePipeline
    client: EngineClient
    state: SyncState = field(default_factory=SyncState)
    takes_time: bool = False
    _copies: list[SyncState] = field(default_factory=list)
    _backups: Backups = field(init=False)
    _made: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._backups = Backups(url=self.pipeline.database_url, schema=self.pipeline.schema)

    @property
    def simulator(self) -> StripeSimulator:
        return self.pipeline.simulator

    async def sync_to_the_end(self, rpc: Rpc = "PipelineSyncBatch", **options: Any) -> list[Eof]:
        ends = await self.pipeline.sync_to_the_end(self.client, rpc, state=self.state, **options)
        self.state = ends[-1].ending_state
        assert ends[-1].status == RUN_STATUS_SUCCEEDED, ends[-1]
        return ends

    async def step(self, name: str, *of: Any) -> None:
        if self.takes_time:
            self.simulator.clock.skew += 100
        await getattr(self, f"_{name}")(*of)

    async def assert_equal(self) -> None:
        for stream in STREAMS.values():
            rows = await documents(self.pipeline.database_url, stream, schema=self.pipeline.schema)
            alive = {row["id"]: row for row in rows if not row.get("deleted")}
            expected = {row["id"]: row for row in self.simulator.objects(stream).documents()}
            assert alive == expected, stream

    def _id(self, stream: str, place: int) -> str | None:
        ids = sorted(self.simulator.objects(STREAMS[stream]).ids())
        return ids[place % len(ids)] if ids else None

    async def _create(self, stream: str) -> None:
        self.simulator.create(STREAMS[stream], {"name": "new"})

    async def _update(self, stream: str, place: int, value: str) -> None:
        if (object_id := self._id(stream, place)) is not None:
            self.simulator.update(STREAMS[stream], object_id, {"name": value})

    async def _delete(self, stream: str, place: int) -> None:
        if (object_id := self._id(stream, place)) is not None:
            self.simulator.delete(STREAMS[stream], object_id)

    async def _sync(self, limit: int, run_id: str) -> None:
        eof = await self.pipeline.sync(
            self.client, state=self.state, state_limit=limit, run_id=run_id
        )
        assert not eof.failure_message
        self.state = eof.ending_state

    async def _follow(self, limit: int) -> None:
        if self.state.source.shared:
            eof = await self.pipeline.sync(
                self.client, state=self.state, state_limit=limit, events_only=True
            )
            self.state = eof.ending_state

    async def _crash(self, count: int, stores: bool, run_id: str) -> None:
        eof = await self.pipeline.sync(
            self.client, state=self.state, state_limit=count, run_id=run_id
        )
        if stores:
            self.state = eof.ending_state

    async def _reset(self) -> None:
        self.state = SyncState()

    async def _drop(self, stream: str) -> None:
        await drop(self.pipeline.database_url, STREAMS[stream], schema=self.pipeline.schema)

    async def _truncate(self, stream: str) -> None:
        await truncate(self.pipeline.database_url, STREAMS[stream], schema=self.pipeline.schema)

    async def _dump(self) -> None:
        self._made.append(await self._backups.make())

    async def _restore(self, place: int) -> None:
        if self._made:
            await self._backups.restore(self._made[place % len(self._made)])

    async def _copy(self) -> None:
        copy = SyncState()
        copy.CopyFrom(self.state)
        self._copies.append(copy)

    async def _roll_back(self, place: int) -> None:
        if self._copies:
            self.state = self._copies[place % len(self._copies)]


@pytest.fixture
async def client() -> AsyncIterator[EngineClient]:
    async with served_engine() as client:
        yield client


@pytest.fixture
async def damaged(database_url: str, client: EngineClient) -> AsyncIterator[Damaged]:
    async with StripeSimulator(PLAN) as simulator:
        yield Damaged(pipeline=_pipeline(simulator, database_url), client=client)


def _pipeline(
    simulator: StripeSimulator, database_url: str, schema: str = "stripe"
) -> StripePipeline:
    return StripePipeline(
        simulator=simulator,
        database_url=database_url,
        streams=selections(*STREAMS.values()),
        schema=schema,
        source={"poll_events": True},
    )


@pytest.mark.parametrize("rpc", RPCS)
@pytest.mark.parametrize("damage", ["drop", "truncate"])
@pytest.mark.parametrize("run_id", ["run", "another", ""])
async def test_a_table_that_lost_its_rows_is_read_again(
    damaged: Damaged, rpc: Rpc, damage: str, run_id: str
) -> None:
    await damaged.sync_to_the_end(run_id="run")
    for _ in range(3):
        await damaged.step("create", "a")
    await damaged.step("delete", "a", 0)
    await damaged.step(damage, "a")
    [eof] = await damaged.sync_to_the_end(rpc, run_id=run_id)
    assert [(each.stream, each.from_start) for each in eof.rewound_streams] == [("customers", True)]
    assert eof.account_id == damaged.simulator.account_id
    await damaged.assert_equal()
    assert not (await damaged.sync_to_the_end(rpc, run_id=run_id))[-1].rewound_streams


async def test_a_restored_backup_catches_up_by_its_own_checkpoints(damaged: Damaged) -> None:
    await damaged.step("sync", 3, "run")
    await damaged.step("dump")
    await damaged.sync_to_the_end(run_id="run")
    for change in ("create", "a"), ("update", "b", 5, "x"), ("delete", "a", 7):
        await damaged.step(*change)
    await damaged.sync_to_the_end(run_id="second")
    await damaged.step("restore", 0)
    ends = await damaged.sync_to_the_end(run_id="third")
    assert {each.stream for each in ends[0].rewound_streams} >= {"", "customers"}
    assert not ends[0].ending_state.sync_run.reconcile
    await damaged.assert_equal()


async def test_a_state_that_fell_back_or_was_reset_needs_nothing_else(damaged: Damaged) -> None:
    await damaged.step("sync", 2, "run")
    await damaged.step("copy")
    await damaged.sync_to_the_end(run_id="run")
    await damaged.step("delete", "a", 3)
    await damaged.step("roll_back", 0)
    ends = await damaged.sync_to_the_end(run_id="run")
    assert not any(eof.rewound_streams for eof in ends)
    await damaged.assert_equal()
    await damaged.step("delete", "b", 3)
    await damaged.step("reset")
    await damaged.sync_to_the_end(run_id="again")
    await damaged.assert_equal()


async def test_a_schema_that_is_gone_is_made_and_filled_again(damaged: Damaged) -> None:
    await damaged.step("dump")
    await damaged.sync_to_the_end()
    await damaged.step("restore", 0)
    ends = await damaged.sync_to_the_end()
    assert [each.stream for each in ends[0].rewound_streams] == ["", *STREAMS.values()]
    await damaged.assert_equal()


@pytest.mark.parametrize(
    "steps",
    [
        CUT_COMPARISON,
        [*CUT_COMPARISON, ("dump",), ("sync", 0, "run"), ("restore", 0)],
        [*CUT_COMPARISON, ("copy",), ("drop", "a"), ("roll_back", 0)],
    ],
    ids=["gone on with", "restored in the middle", "fallen back"],
)
async def test_a_comparison_behind_a_reset_is_gone_on_with(
    database_url: str, client: EngineClient, steps: list[tuple[Any, ...]]
) -> None:
    async with StripeSimulator(SMALL) as simulator:
        damaged = Damaged(
            pipeline=_pipeline(simulator, database_url), client=client, takes_time=True
        )
        await damaged.step("create", "a")
        for step in steps:
            await damaged.step(*step)
        # The first run may still end at the engine's estimate of Stripe's clock.
        for run_id in ("last but one", "last"):
            await damaged.sync_to_the_end(run_id=run_id, state_limit=3)
        await damaged.assert_equal()


_schemas = itertools.count()


@pytest.mark.timeout(600)  # Dozens of histories run, each of dozens of requests.
@settings(
    max_examples=15,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # Shrinking takes too long.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=HISTORIES)
async def test_a_history_cut_anywhere_ends_with_the_account(
    database_url: str, client: EngineClient, steps: list[tuple[Any, ...]]
) -> None:
    schema = f"history_{next(_schemas)}"
    async with StripeSimulator(SMALL) as simulator:
        damaged = Damaged(pipeline=_pipeline(simulator, database_url, schema), client=client)
        for step in steps:
            await damaged.step(*step)
        await damaged.sync_to_the_end(run_id="last", state_limit=3)
        await damaged.assert_equal()
