"""The engine against localstripe, a fake Stripe by others.

It has no /v1/account, so the account's id is configured; it lists oldest first; it refuses the
``created`` filter; and it has no prices, whose stream ends with an error of its own.
"""

import asyncio
import sys
from collections.abc import AsyncIterator

import aiohttp
import pytest
from google.protobuf.struct_pb2 import Struct

from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, StreamSelection
from pipesync.v1.engine_service_pb2 import PipelineSyncBatchRequest, SyncOptions
from pipesync.v1.progress_pb2 import RUN_STATUS_FAILED, StreamProgress
from pipesync.v1.state_pb2 import SyncState
from pipesync_client import EngineClient
from tests.end_to_end.tables import documents
from tests.processes import ServerProcess

API_KEY = "sk_test_localstripe"
CUSTOMERS = 250
PRODUCTS = 120


@pytest.fixture
async def localstripe() -> AsyncIterator[str]:
    """Yield its URL, on loopback."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-m", "tests.end_to_end.localstripe_process"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    yield (await process.stdout.readline()).decode().strip()
    process.terminate()
    await process.wait()


async def create(
    session: aiohttp.ClientSession, base_url: str, path: str, **fields: str
) -> dict[str, str]:
    async with session.post(f"{base_url}/v1/{path}", data=fields) as response:
        body: dict[str, str] = await response.json()
        assert response.status == 200, body
        return body


async def test_customers_products_plans_and_subscriptions_arrive_over_several_batches(
    localstripe: str, engine: ServerProcess, database_url: str
) -> None:
    created: dict[str, set[str]] = {"customers": set(), "products": set()}
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {API_KEY}"}) as session:
        for number in range(CUSTOMERS):
            customer = await create(session, localstripe, "customers", name=f"Customer {number}")
            created["customers"].add(customer["id"])
        for number in range(PRODUCTS):
            product = await create(session, localstripe, "products", name=f"Product {number}")
            created["products"].add(product["id"])
        plan = await create(
            session,
            localstripe,
            "plans",
            product=product["id"],
            amount="0",
            currency="eur",
            interval="month",
        )
        subscription = await create(
            session,
            localstripe,
            "subscriptions",
            **{"customer": customer["id"], "items[0][plan]": plan["id"]},
        )
    created |= {"plans": {plan["id"]}, "subscriptions": {subscription["id"]}}

    source, destination = Struct(), Struct()
    source.update({"api_key": API_KEY, "base_url": localstripe, "account_id": "acct_local"})
    destination.update({"url": database_url})
    config = PipelineConfig(
        source=Connector(type="stripe", config=source),
        destination=Connector(type="postgres", config=destination),
        streams=[StreamSelection(name=name) for name in (*created, "prices")],
    )
    async with EngineClient(engine.address) as client:
        state, has_more = SyncState(), True
        while has_more:
            options = SyncOptions(state=state, run_id="localstripe", state_limit=2)
            request = PipelineSyncBatchRequest(pipeline=config, options=options)
            eof = (await client.pipeline_sync_batch(request)).eof
            state, has_more = eof.ending_state, eof.has_more
    statuses = {name: stream.status for name, stream in eof.run_progress.streams.items()}
    completed = dict.fromkeys(created, StreamProgress.STATUS_COMPLETED)
    assert statuses == {**completed, "prices": StreamProgress.STATUS_ERRORED}
    assert eof.status == RUN_STATUS_FAILED
    for name, ids in created.items():
        found = [document["id"] for document in await documents(database_url, name)]
        assert sorted(found) == sorted(ids), name
