"""A sync that is stopped at any moment, and continues later, loses nothing."""

import random
import time

import pytest
from google.protobuf.duration_pb2 import Duration

from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync.v1.state_pb2 import SyncState
from tests.end_to_end.syncs import PLAN, impatient_engine, pipeline, sync_batch
from tests.end_to_end.tables import assert_tables_equal
from tests.stripe_simulator import faults
from tests.stripe_simulator.simulator import StripeSimulator

# The most seconds that a request may take beyond its limit, on a busy machine.
SLACK_SECONDS = 5.0


@pytest.mark.parametrize("option", ["time_limit", "soft_time_limit"])
@pytest.mark.parametrize("seed", range(2))
async def test_stopped_by_one_short_limit_after_another(
    database_url: str, option: str, seed: int
) -> None:
    generator = random.Random(seed)  # noqa: S311 - repeatable on purpose, guards nothing
    async with StripeSimulator(PLAN) as simulator, impatient_engine() as client:
        simulator.faults.add(faults.jittered_latency(0.02, 0.1, seed=seed), times=None)
        config = pipeline(simulator, database_url, option)
        state = SyncState()
        requests = 0
        # A caller gives more time to the request after one that was too short for a page.
        patience = 1.0
        has_more = True
        while has_more:
            requests += 1
            seconds = patience * generator.uniform(0.02, 0.25)
            limit = Duration(nanos=int(seconds * 1e9))
            began = time.monotonic()
            eof = await sync_batch(client, config, state=state, **{option: limit})
            assert time.monotonic() - began < seconds + SLACK_SECONDS
            # The third request in a row that is too short for a page ends a caller's loop.
            is_too_short = bool(eof.limit_message)
            assert is_too_short or not eof.failure_message
            patience = 1.5 * patience if is_too_short else 1.0
            state, has_more = eof.ending_state, eof.has_more or is_too_short
        assert requests > 2
        assert eof.status == RUN_STATUS_SUCCEEDED
        await assert_tables_equal(simulator, database_url, PLAN.counts, schema=option)
