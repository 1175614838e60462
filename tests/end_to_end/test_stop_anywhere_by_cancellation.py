"""A sync whose caller leaves at any moment, resumed from the last checkpoint the caller saw."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

import pytest

from pipesync.v1.catalog_pb2 import PipelineConfig
from pipesync.v1.engine_service_pb2 import PipelineSyncRequest, SyncOptions
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync.v1.state_pb2 import Eof, SyncState
from pipesync_client import EngineClient
from tests.end_to_end.syncs import PLAN, RUN_ID, pipeline
from tests.end_to_end.tables import assert_tables_equal
from tests.processes import ServerProcess
from tests.stripe_simulator import faults
from tests.stripe_simulator.simulator import StripeSimulator

SCHEMA = "cancelled"


@dataclass(kw_only=True)
class Caller:
    """Caller that syncs message by message, and keeps the state that it needs to continue.

    Attributes:
        client: The engine to call.
        config: The pipeline to sync.
        state: The run, and the last checkpoints seen.
        eof: How the sync ended; None while it has not.
    """

    client: EngineClient
    config: PipelineConfig
    state: SyncState = field(default_factory=SyncState)
    eof: Eof | None = None

    async def messages(self) -> AsyncGenerator[Message, None]:
        """Yield one call's messages; closing the generator cancels the call."""
        options = SyncOptions(state=self.state, run_id=RUN_ID)
        request = PipelineSyncRequest(pipeline=self.config, options=options)
        async with aclosing(self.client.pipeline_sync(request)) as responses:
            async for response in responses:
                self._see(response.message)
                yield response.message

    async def leave_after_messages(self, count: int) -> None:
        """Make a call and cancel it at the message of this number, unless it ends before."""
        async with aclosing(self.messages()) as messages:
            async for _ in messages:
                count -= 1
                if not count:
                    return

    async def leave_at_request(self, simulator: StripeSimulator, number: int) -> None:
        """Make a call and cancel it when the source's request of this number arrives."""
        simulator.requests.clear()
        call = asyncio.create_task(self.leave_after_messages(0))
        moment = asyncio.create_task(simulator.requests.wait_for("*", number))
        await asyncio.wait({call, moment}, return_when=asyncio.FIRST_COMPLETED)
        call.cancel()
        moment.cancel()
        results = await asyncio.gather(call, moment, return_exceptions=True)
        for result in results:
            assert result is None or isinstance(result, asyncio.CancelledError), result

    def _see(self, message: Message) -> None:
        match message.WhichOneof("payload"):
            case "sync_run":
                self.state.sync_run.CopyFrom(message.sync_run)
            case "source_state":
                checkpoint = message.source_state
                self.state.source.streams[checkpoint.stream] = checkpoint.data
            case "eof":
                self.eof = message.eof


@pytest.mark.parametrize("moment", ["message", "request"])
@pytest.mark.parametrize("seed", range(3))
async def test_cancelled_at_one_moment_after_another(
    engine: ServerProcess, database_url: str, moment: str, seed: int
) -> None:
    generator = random.Random(seed)  # noqa: S311 - repeatable on purpose, guards nothing
    async with StripeSimulator(PLAN) as simulator, EngineClient(engine.address) as client:
        simulator.faults.add(faults.jittered_latency(0.0, 0.03, seed=seed), times=None)
        caller = Caller(client=client, config=pipeline(simulator, database_url, SCHEMA))
        calls = 0
        while caller.eof is None:
            calls += 1
            if moment == "message":
                await caller.leave_after_messages(generator.randint(1, 40))
            else:
                # An engine slower than the simulated Stripe is left before it has written anything,
                # so the caller leaves later each time; otherwise the calls would never end.
                await caller.leave_at_request(simulator, generator.randint(1, 20 + calls))
        assert calls > 1
        assert not caller.eof.has_more
        assert caller.eof.status == RUN_STATUS_SUCCEEDED, caller.eof.failure_message
        await assert_tables_equal(simulator, database_url, PLAN.counts, schema=SCHEMA)
    assert engine.errors == []
