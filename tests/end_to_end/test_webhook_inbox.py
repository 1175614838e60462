"""What happens in an account, told by webhook, from Stripe's delivery to the tables."""

from collections.abc import AsyncIterator

import pytest

from tests.end_to_end.command import PipelinesCommand
from tests.end_to_end.tables import assert_tables_equal
from tests.processes import ServerProcess
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

STREAMS = ("customers", "products")


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(SeedPlan(counts={"customers": 5, "products": 2})) as one:
        yield one


async def test_what_is_delivered_by_webhook_is_soon_in_the_tables(
    simulator: StripeSimulator, service: ServerProcess, database_url: str
) -> None:
    endpoint = simulator.register_webhook(f"{service.http_address}/webhooks/acme")
    pipelines = PipelinesCommand(
        service=service.address, simulator=simulator, database_url=database_url
    )
    created = await pipelines.create(
        *("acme", STREAMS, "--source-config", f"webhook_secret={endpoint['secret']}"),
        *("--destination-config", "delete_mode=hard"),
    )
    assert created.exit_code == 0, created.stderr
    synced = await pipelines("sync_batch", "acme", "--loop", "0")
    assert synced.exit_code == 0, synced.stderr

    simulator.deliveries.disturb(duplicates=0.5, reorder=0.05, seed=1)
    [first, second, *_] = simulator.objects("customers").documents()
    simulator.update("customers", first["id"], {"balance": 2**60 + 1})
    simulator.delete("customers", second["id"])
    for _ in range(20):
        simulator.create("customers")
        simulator.create("products")
    await simulator.deliveries.settled()
    statuses = {attempt.status for attempt in simulator.deliveries.attempts}
    assert statuses == {200}

    applied = 0
    while applied < 42:
        event = await service.wait_for("webhook_events_applied")
        service.events.remove(event)
        applied += event["count"]
    assert applied == 42
    await assert_tables_equal(simulator, database_url, STREAMS)
    assert endpoint["secret"] not in str(service.events)
