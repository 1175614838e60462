"""A sync that is stopped at any checkpoint, amid other faults, loses nothing."""

from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from tests.end_to_end.syncs import PLAN, impatient_engine, pipeline, sync_batch
from tests.end_to_end.tables import assert_tables_equal
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.simulator import StripeSimulator

FAULTS = [
    faults.refuse(errors.server_error(500)),
    faults.refuse(errors.rate_limited("global-rate")),
    faults.refuse(errors.rate_limited("endpoint-rate", retry_after=0.01)),
    faults.connection_reset(),
    faults.truncated_body(),
]


async def test_stopped_after_every_checkpoint_while_calls_fail_at_random(
    database_url: str,
) -> None:
    async with StripeSimulator(PLAN) as simulator, impatient_engine() as client:
        simulator.faults.add(faults.jittered_latency(0.0, 0.02, seed=3), times=None)
        simulator.faults.add(faults.at_random(FAULTS, share=0.05, seed=6), times=None)
        stopped_after = 0
        has_more = True
        while has_more:
            stopped_after += 1
            schema = f"stopped_after_{stopped_after}"
            config = pipeline(simulator, database_url, schema)
            eof = await sync_batch(client, config, state_limit=stopped_after)
            has_more = eof.has_more
            if has_more:
                assert eof.run_progress.derived.total_state_count == stopped_after
                eof = await sync_batch(client, config, state=eof.ending_state)
                assert not eof.has_more
            assert eof.status == RUN_STATUS_SUCCEEDED, eof.failure_message
            await assert_tables_equal(simulator, database_url, PLAN.counts, schema=schema)
        # The sync was stopped at every checkpoint of a whole one, which has at least one a page.
        assert stopped_after > sum(-(-count // 100) for count in PLAN.counts.values())
        # 0: reset before there was an answer.
        assert {request.status for request in simulator.requests} == {0, 200, 429, 500}


async def test_read_a_checkpoint_at_a_time_while_calls_fail_at_random(
    database_url: str,
) -> None:
    async with StripeSimulator(PLAN) as simulator, impatient_engine() as client:
        simulator.faults.add(faults.jittered_latency(0.0, 0.02, seed=13), times=None)
        simulator.faults.add(faults.at_random(FAULTS, share=0.05, seed=13), times=None)
        config = pipeline(simulator, database_url, "one_at_a_time")
        eof = await sync_batch(client, config, state_limit=1)
        while eof.has_more:
            eof = await sync_batch(client, config, state=eof.ending_state, state_limit=1)
        assert eof.status == RUN_STATUS_SUCCEEDED, eof.failure_message
        await assert_tables_equal(simulator, database_url, PLAN.counts, schema="one_at_a_time")
