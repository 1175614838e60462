"""An engine whose clock differs from Stripe's, on virtual time, and the rows of its syncs."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import orjson
import pytest

from engine_server.connectors.stripe.source import StripeSource
from engine_server.flush_times import FlushTimes
from engine_server.sync.checks.resolution import ResolvedSource, resolve_streams
from engine_server.sync.plan.plan_sync import plan_sync
from engine_server.sync.run.run import run_sync
from pipesync.v1.catalog_pb2 import StreamSelection
from pipesync.v1.engine_service_pb2 import PipelineReadRequest, SyncOptions
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync.v1.state_pb2 import Eof, SyncState
from tests.engine_server.connectors.stripe import virtual_time
from tests.engine_server.connectors.stripe.reading import QUICK, config_for
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

# The time of Stripe's clock when the loop's shows 0.
EPOCH = 1_790_000_000.0
# A run with more requests than this is endless.
MOST_REQUESTS = 40

Row = dict[str, Any]


class Skewed:
    """An account, and an engine that is ``skew`` seconds ahead of it.

    Attributes:
        simulator: The account.
        skew: The seconds that the engine's clock is ahead; may change.
        rows: The rows of a destination, by stream and id; an equally new record replaces a row.
        state: The state of the next sync.
        times_read: How often each object was emitted.
    """

    def __init__(self, simulator: StripeSimulator, skew: float, now: Callable[[], float]) -> None:
        self.simulator = simulator
        self.skew = skew
        self.stripe_time = now
        self.rows: dict[tuple[str, str], Row] = {}
        self.state = SyncState()
        self.times_read: dict[tuple[str, str], int] = {}
        self._source = StripeSource(QUICK)

    def restart(self, skew: float) -> None:
        """Begin a new engine process, whose clock may differ."""
        self._source = StripeSource(QUICK)
        self.skew = skew

    async def sync(
        self,
        *streams: str | StreamSelection,
        polls: bool = False,
        state_limit: int = 0,
        run_id: str = "",
        events_only: bool = False,
    ) -> Eof:
        """Run requests until the run is complete, and return the last end."""
        selections = [
            StreamSelection(name=stream) if isinstance(stream, str) else stream
            for stream in streams
        ]
        config = config_for(self.simulator, poll_events=polls)
        source = ResolvedSource(type="stripe", connector=self._source, config=config)
        for _ in range(MOST_REQUESTS):
            options = SyncOptions(
                state=self.state, state_limit=state_limit, run_id=run_id, events_only=events_only
            )
            plan = plan_sync(
                PipelineReadRequest(options=options),
                source,
                None,
                await resolve_streams(source, selections),
                default_state_limit=None,
                seconds_to_deadline=None,
                flush_times=FlushTimes(),
            )
            eof = Eof()
            async with aclosing(run_sync(plan)) as messages:
                async for message in messages:
                    self._take(message)
                    if message.HasField("eof"):
                        eof = message.eof
            assert eof.status == RUN_STATUS_SUCCEEDED or eof.has_more, eof
            self.state.CopyFrom(eof.ending_state)
            if not eof.has_more:
                return eof
        raise AssertionError("the run does not end")

    def checkpoint(self, stream: str) -> dict[str, Any]:
        """Return a stream's checkpoint."""
        found: dict[str, Any] = orjson.loads(self.state.source.streams[stream])
        return found

    def account(self, stream: str) -> dict[str, Row]:
        """Return the account's objects, by id."""
        documents = self.simulator.objects(stream).documents()
        return {document["id"]: dict(document) for document in documents}

    def held(self, stream: str) -> dict[str, Row]:
        """Return the rows that are not deleted, by id, in the form of the account's objects."""
        return {
            object_id: {name: value for name, value in row.items() if name[0] != "_"}
            for (of, object_id), row in self.rows.items()
            if of == stream and not row.get("deleted")
        }

    def _take(self, message: Message) -> None:
        batch = message.record_batch
        for record in map(orjson.loads, batch.records):
            key = (batch.stream, record["id"])
            self.times_read[key] = self.times_read.get(key, 0) + 1
            held = self.rows.get(key)
            if held is None or held["_updated_at"] <= record["_updated_at"]:
                self.rows[key] = record


def run(
    skew: float,
    main: Callable[[Skewed], Awaitable[None]],
    *,
    plan: SeedPlan | None = None,
) -> None:
    """Run ``main`` on virtual time with a new engine process ``skew`` seconds ahead."""

    async def in_loop() -> None:
        async with _skewed(patch, skew, plan) as skewed:
            await main(skewed)

    with pytest.MonkeyPatch.context() as patch:
        virtual_time.run(patch, in_loop())


@asynccontextmanager
async def _skewed(
    patch: pytest.MonkeyPatch, skew: float, plan: SeedPlan | None
) -> AsyncIterator[Skewed]:
    monotonic = time.monotonic

    def stripe_time() -> float:
        return EPOCH + monotonic()

    async with StripeSimulator(plan) as simulator:
        simulator.clock.follow(stripe_time)
        skewed = Skewed(simulator, skew, stripe_time)
        patch.setattr(time, "time", lambda: stripe_time() + skewed.skew)
        patch.setattr(time, "time_ns", lambda: int((stripe_time() + skewed.skew) * 1e9))
        yield skewed


def in_turn(*actions: Callable[[], object] | None) -> Callable[[], None]:
    """Return a callable that runs the next action at each call."""
    left: Sequence[Callable[[], object] | None] = list(actions)
    remaining = iter(left)

    def act() -> None:
        action = next(remaining, None)
        if action is not None:
            action()

    return act
