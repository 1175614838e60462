"""Events about a part of an object: the row of the whole shows the part, by every way in."""

from collections.abc import AsyncIterator

import pytest

from pipesync_client import EngineClient
from tests.end_to_end.listening import quick_engine
from tests.end_to_end.stripe_pipeline import StripePipeline, selections
from tests.end_to_end.tables import assert_tables_equal, documents
from tests.end_to_end.ways_in import WAYS_IN, WayIn, following
from tests.engine_server.connectors.stripe.events.builders import Document
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator


@pytest.fixture
async def client() -> AsyncIterator[EngineClient]:
    async with quick_engine() as client:
        yield client


@pytest.mark.parametrize("version", [None, "2020-08-27"])
@pytest.mark.parametrize("way_in", WAYS_IN)
async def test_the_whole_shows_what_became_of_its_part(
    client: EngineClient, database_url: str, way_in: WayIn, version: str | None
) -> None:
    async with StripeSimulator(SeedPlan(counts={"customers": 3})) as simulator:
        if version is not None:
            simulator.set_default_version(version)
            simulator.cli_sessions.own_version = version
        [one, other, _] = simulator.objects("customers").documents()
        account: Document = {"id": "acct_2", "object": "account", "capabilities": {}}
        simulator.objects("accounts").put(account)
        pipeline = StripePipeline(
            simulator=simulator,
            database_url=database_url,
            streams=selections("accounts", "customers", "tax_ids"),
        )
        async with following(client, pipeline, way_in) as apply:
            # The object that Stripe shows changes without an event of the whole.
            simulator.objects("customers").put({**one, "default_source": "card_1"})
            card = {"id": "card_1", "object": "card", "customer": one["id"]}
            simulator.tell("customer.source.created", card)
            simulator.objects("customers").put({**other, "tax_exempt": "reverse"})
            tax_id = {"id": "txi_1", "object": "tax_id", "created": 1, "customer": other["id"]}
            simulator.objects("tax_ids").put(tax_id)
            simulator.tell("customer.tax_id.created", tax_id)
            simulator.objects("accounts").put({**account, "capabilities": {"transfers": "active"}})
            capability = {"id": "transfers", "object": "capability", "account": "acct_2"}
            simulator.tell("capability.updated", capability)
            await apply()
            await assert_tables_equal(simulator, database_url, ["accounts", "customers", "tax_ids"])
            simulator.objects("tax_ids").delete("txi_1")
            simulator.objects("customers").put({**other, "tax_exempt": "none"})
            simulator.tell("customer.tax_id.deleted", tax_id)
            await apply()
        await assert_tables_equal(simulator, database_url, ["customers"])
        assert await documents(database_url, "tax_ids") == [{**tax_id, "deleted": True}]
