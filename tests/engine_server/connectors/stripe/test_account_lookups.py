"""One lookup of the account serves the engine and the source."""

import asyncio
import gc

import pytest

from engine_server.connectors.protocols import AccountSource, ReadRequest
from engine_server.connectors.stripe.source import StripeSource
from engine_server.errors import ConnectionFailed
from tests.engine_server.connectors.stripe.reading import QUICK, config_for, selected
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

PLAN = SeedPlan(counts={"customers": 1})


def lookups(simulator: StripeSimulator) -> int:
    return sum(request.path == "/v1/account" for request in simulator.requests)


async def test_the_source_caches_accounts() -> None:
    assert isinstance(StripeSource(), AccountSource)


async def test_concurrent_and_later_reads_share_one_lookup() -> None:
    async with StripeSimulator(PLAN) as simulator:
        source, config = StripeSource(QUICK), config_for(simulator, account_id=None)

        async def read() -> int:
            request = ReadRequest(streams=[selected("customers")])
            return len([message async for message in source.read(config, request)])

        account_id, count = await asyncio.gather(source.account_id(config), read())
        assert account_id == simulator.account_id
        assert count == await read() > 0
        assert lookups(simulator) == 1


async def test_an_account_that_is_configured_is_not_looked_up() -> None:
    async with StripeSimulator(PLAN) as simulator:
        config = config_for(simulator, account_id="acct_1")
        assert await StripeSource(QUICK).account_id(config) == "acct_1"
        assert len(simulator.requests) == 0


async def test_each_configuration_object_has_its_account_looked_up() -> None:
    async with StripeSimulator(PLAN) as simulator:
        source = StripeSource(QUICK)
        for _ in range(2):
            await source.account_id(config_for(simulator, account_id=None))
            gc.collect()
        assert lookups(simulator) == 2


async def test_a_failed_lookup_fails_all_its_callers() -> None:
    async with StripeSimulator(PLAN) as simulator:
        source, config = StripeSource(QUICK), config_for(simulator, account_id=None)
        simulator.faults.add(faults.refuse(errors.unknown_key("sk_test_1")), times=None)
        for _ in range(2):
            with pytest.raises(ConnectionFailed):
                await source.account_id(config)
        assert lookups(simulator) == 1


async def test_a_waiting_caller_takes_over_a_cancelled_lookup() -> None:
    async with StripeSimulator(PLAN) as simulator:
        source, config = StripeSource(QUICK), config_for(simulator, account_id=None)
        asked = asyncio.Event()
        simulator.faults.add(faults.after_read(asked.set, seconds=60.0), times=1)
        first = asyncio.create_task(source.account_id(config))
        await asked.wait()
        second = asyncio.create_task(source.account_id(config))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == simulator.account_id
        with pytest.raises(asyncio.CancelledError):
            await first
