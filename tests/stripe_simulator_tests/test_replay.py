"""Replay of the events, which alone reproduce the simulator's objects."""

import random
from typing import Any

import pytest

from tests.stripe_simulator.simulator import StripeSimulator

Document = dict[str, Any]
STREAMS = {
    "coupon": "coupons",
    "customer": "customers",
    "invoice": "invoices",
    "plan": "plans",
    "price": "prices",
    "product": "products",
    "subscription": "subscriptions",
}


def mutate(simulator: StripeSimulator, generator: random.Random, count: int) -> None:
    """Make random changes, several of them in one second."""
    for number in range(count):
        stream = generator.choice(list(STREAMS.values()))
        ids = sorted(simulator.objects(stream).ids())
        match generator.choice(["create", "update", "update", "delete"]) if ids else "create":
            case "create":
                simulator.create(stream)
            case "update":
                metadata = {generator.choice("ab"): generator.choice(["1", "2", None])}
                simulator.update(stream, generator.choice(ids), {"metadata": metadata})
            case "delete":
                chosen = generator.choice(ids)
                status = document_of(simulator, stream, chosen).get("status")
                if status != "canceled":
                    simulator.delete(stream, chosen)
        if number % 5 == 4:
            simulator.clock.advance(1)


def document_of(simulator: StripeSimulator, stream: str, object_id: str) -> Document:
    [found] = [item for item in simulator.objects(stream).documents() if item["id"] == object_id]
    return found


@pytest.mark.parametrize("seed", range(3))
def test_events_in_order_make_the_objects_there_are(seed: int) -> None:
    simulator = StripeSimulator()
    simulator.clock.set(1_700_000_000)
    generator = random.Random(seed)  # noqa: S311 (repeatable on purpose, guards nothing)
    mutate(simulator, generator, 200)
    objects: dict[str, dict[str, Document]] = {stream: {} for stream in STREAMS.values()}
    simulator.clock.advance(1)
    for event in simulator.objects("events").documents():
        document = event["data"]["object"]
        of_stream = objects[STREAMS[document["object"]]]
        previous = event["data"].get("previous_attributes")
        if previous is not None:
            before = of_stream[document["id"]]
            assert {name: before.get(name) for name in previous if name != "metadata"} == {
                name: value for name, value in previous.items() if name != "metadata"
            }
            for key, value in previous.get("metadata", {}).items():
                assert before["metadata"].get(key) == value
        if event["type"].endswith(".deleted") and document["object"] != "subscription":
            del of_stream[document["id"]]
        else:
            of_stream[document["id"]] = document
    for stream, of_stream in objects.items():
        held = {item["id"]: item for item in simulator.objects(stream).documents()}
        assert of_stream == held
