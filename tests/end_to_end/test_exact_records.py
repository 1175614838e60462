"""Numbers and characters of records, from Stripe into the tables, by list and by every way in."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from engine_server import exact_json
from pipesync.v1 import engine_service_pb2 as pb
from pipesync.v1.progress_pb2 import Progress
from tests.end_to_end.listening import quick_engine
from tests.end_to_end.stripe_pipeline import StripePipeline, selections, served_engine
from tests.end_to_end.ways_in import EXACT_WAYS_IN, WAYS_IN, WayIn, following
from tests.stripe_simulator.simulator import StripeSimulator

# Each number has more digits than a float, or is written in another way than a float is.
NUMBERS = {
    "big": "12345678901234567890",
    "cents": "1.10",
    "digits": "0.1234567890123456789012345",
    "power": "1E5",
    "negative": "-0.0",
    "zero": "-0",
}
# Texts as Stripe sends them, and as Postgres stores them.
TEXTS = {
    "nul": ("a\\u0000b", "a\ufffdb"),
    "high": ("\\ud83d", "\ufffd"),
    "low": ("x\\uDE00x", "x\ufffdx"),
    "reversed": ("\\ude00\\ud83d", "\ufffd\ufffd"),
    "pair": ("\\ud83d\\ude00", "😀"),
    "escaped": ("\\\\u0000\\\\ud83d", "\\u0000\\ud83d"),
}
ODD = "{%s}" % ",".join(  # noqa: UP031 - braces
    [
        *(f'"{name}":{number}' for name, number in NUMBERS.items()),
        *(f'"{name}":"{escaped}"' for name, (escaped, _) in TEXTS.items()),
        '"\\ud83d":{"\\u0000":1}',
    ]
)
EXPECTED = {name: stored for name, (_, stored) in TEXTS.items()}


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator() as simulator:
        yield simulator


@pytest.fixture
def pipeline(simulator: StripeSimulator, database_url: str) -> StripePipeline:
    return StripePipeline(
        simulator=simulator,
        database_url=database_url,
        streams=selections("customers", "subscriptions", "subscription_items"),
    )


async def odd_fields(pipeline: StripePipeline, stream: str) -> Mapping[str, Mapping[str, str]]:
    """Return the field ``odd`` of each row that has one: its values as text."""
    connection = await asyncpg.connect(pipeline.database_url)
    try:
        rows = await connection.fetch(
            f"SELECT id, field.key, field.value FROM stripe.{stream}, "  # noqa: S608 - names of our own
            "jsonb_each_text(_raw_data -> 'odd') AS field"
        )
    finally:
        await connection.close()
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        found.setdefault(row["id"], {})[row["key"]] = row["value"]
    return found


def assert_exact(found: Mapping[str, str]) -> None:
    """Assert that rows equal Stripe's objects, except where Postgres cannot hold a value."""
    assert {name: found[name] for name in TEXTS} == EXPECTED
    # jsonb writes numbers without exponents, and has no negative zero.
    written = {**NUMBERS, "power": "100000", "negative": "0.0", "zero": "0"}
    assert {name: found[name].removeprefix("-") for name in NUMBERS} == written
    assert json.loads(found["\ufffd"]) == {"\ufffd": 1}


def replaced(progress: Progress) -> dict[str, int]:
    counts = {
        name: stream.replaced_record_count
        for name, stream in progress.streams.items()
        if stream.replaced_record_count
    }
    assert progress.derived.total_replaced_record_count == sum(counts.values())
    return counts


def odd() -> Any:
    return exact_json.decode(ODD.encode())


def subscribe(simulator: StripeSimulator, items: int) -> str:
    price, customer = simulator.create("prices")["id"], simulator.create("customers")["id"]
    made = simulator.create(
        "subscriptions", {"customer": customer, "items": [{"price": price}] * items}
    )
    return str(made["id"])


async def test_a_list_is_read_with_all_its_records(
    simulator: StripeSimulator, pipeline: StripePipeline
) -> None:
    names = [str(simulator.create("customers")["id"]) for _ in range(3)]
    now = simulator.clock.second()
    body = f'{{"id":"cus_odd","object":"customer","created":{now},"odd":{ODD}}}'
    simulator.objects("customers").put_encoded("cus_odd", now, body.encode())
    async with served_engine() as client:
        eof = await pipeline.sync(client)
        assert replaced(eof.request_progress) == {"customers": 1}
        assert replaced(eof.run_progress) == {"customers": 1}
        # A caller who reads without this destination gets the values that Stripe sent.
        request = pb.PipelineReadRequest(pipeline=pipeline.config())
        read = [answer.message async for answer in client.pipeline_read(request)]
    found = [
        record
        for message in read
        for record in message.record_batch.records
        if b"cus_odd" in record
    ]
    [record] = map(exact_json.decode, found)
    assert exact_json.encode(record["odd"]) == exact_json.encode(odd())
    assert all(f":{number}".encode() in found[0] for number in NUMBERS.values())
    assert await pipeline.ids("customers") == {*names, "cus_odd"}
    assert_exact((await odd_fields(pipeline, "customers"))["cus_odd"])


async def test_items_of_lists_inside_objects_are_exact(
    simulator: StripeSimulator, pipeline: StripePipeline
) -> None:
    """Compare items that the object holds, and those that are read from their list."""
    subscription = subscribe(simulator, 12)
    items = simulator.objects("subscription_items").ids()
    simulator.update(
        "subscriptions", subscription, {"items": [{"id": one, "odd": odd()} for one in items]}
    )
    async with served_engine() as client:
        eof = await pipeline.sync(client)
    assert replaced(eof.request_progress) == {"subscription_items": 12, "subscriptions": 1}
    found = await odd_fields(pipeline, "subscription_items")
    assert found.keys() == items
    for fields in found.values():
        assert_exact(fields)


@pytest.mark.parametrize("revalidate", [None, "all"])
@pytest.mark.parametrize("way", EXACT_WAYS_IN)
async def test_events_are_exact_and_so_is_what_is_looked_up_for_them(
    simulator: StripeSimulator, pipeline: StripePipeline, way: WayIn, revalidate: str | None
) -> None:
    if revalidate:
        pipeline = replace(pipeline, source={"revalidate_objects": revalidate})
    customer = simulator.create("customers")["id"]
    subscription = subscribe(simulator, 12)
    items = sorted(simulator.objects("subscription_items").ids())

    def change() -> None:
        simulator.update("customers", customer, {"odd": odd(), "name": "\ud83d"})
        # The event's previous attributes are odd, too.
        simulator.update("customers", customer, {"name": "\0"})
        changes = [{"id": one, "odd": odd()} for one in items]
        simulator.update("subscriptions", subscription, {"items": changes})

    async with quick_engine() as client, following(client, pipeline, way) as apply:
        change()
        await apply()
        assert_exact((await odd_fields(pipeline, "customers"))[customer])
        found = await odd_fields(pipeline, "subscription_items")
    assert sorted(found) == items
    for fields in found.values():
        assert_exact(fields)


@pytest.mark.parametrize("way", WAYS_IN)
async def test_an_expanded_reference_is_its_id_by_every_way_in(
    simulator: StripeSimulator, pipeline: StripePipeline, way: WayIn
) -> None:
    subscription = subscribe(simulator, 1)
    customer = simulator.create("customers")
    source = {"id": "card_1", "object": "card", "last4": "4242"}

    async with quick_engine() as client, following(client, pipeline, way) as apply:
        changes = {"customer": customer, "default_source": source}
        simulator.update("subscriptions", subscription, changes)
        await apply()
        connection = await asyncpg.connect(pipeline.database_url)
        try:
            [row] = await connection.fetch(
                "SELECT customer, default_source, _raw_data -> 'default_source' ->> 'last4' "
                "FROM stripe.subscriptions"
            )
        finally:
            await connection.close()
    assert tuple(row) == (customer["id"], "card_1", "4242")
