"""Initial contents of a simulated account."""

from collections import Counter

import pytest
from google.protobuf.json_format import MessageToDict

from engine_server.connectors.stripe.catalog.streams import load_resources
from tests.stripe_simulator.seeds.plan import SEEDED_STREAMS, SeedPlan

EVERYTHING = SeedPlan(counts=dict.fromkeys(SEEDED_STREAMS, 20))


def test_the_same_plan_makes_the_same_objects() -> None:
    assert list(EVERYTHING.seeds()) == list(SeedPlan(counts=EVERYTHING.counts).seeds())


def test_another_seed_makes_other_ids() -> None:
    ids = {seed.document["id"] for seed in SeedPlan(counts={"customers": 20}).seeds()}
    others = {seed.document["id"] for seed in SeedPlan(counts={"customers": 20}, seed=1).seeds()}
    assert ids.isdisjoint(others)


def test_a_plan_makes_as_many_objects_as_it_says() -> None:
    assert Counter(seed.stream for seed in EVERYTHING.seeds()) == EVERYTHING.counts


def test_objects_have_no_field_that_the_stripe_package_does_not_know() -> None:
    for seed in EVERYTHING.seeds():
        schema = MessageToDict(load_resources()[seed.stream].stream.json_schema)
        assert seed.document.keys() <= schema["properties"].keys()


def test_objects_name_each_other() -> None:
    customers = {seed.document["id"] for seed in EVERYTHING.seeds() if seed.stream == "customers"}
    charges = [seed.document for seed in EVERYTHING.seeds() if seed.stream == "charges"]
    assert {charge["customer"] for charge in charges} == customers


def test_creation_is_spread_evenly_over_the_span() -> None:
    plan = SeedPlan(counts={"customers": 10}, created_from=1000, created_until=2000)
    assert [seed.document["created"] for seed in plan.seeds()] == list(range(1000, 2000, 100))


def test_many_objects_can_share_one_second() -> None:
    plan = SeedPlan(counts={"customers": 500}, same_second={"customers": 250})
    seconds = Counter(seed.document["created"] for seed in plan.seeds())
    assert sorted(seconds.values())[-2:] == [1, 250]


def test_canceled_subscriptions_are_hidden_from_lists() -> None:
    subscriptions = [seed for seed in EVERYTHING.seeds() if seed.stream == "subscriptions"]
    hidden = [seed for seed in subscriptions if not seed.listed]
    assert 0 < len(hidden) < len(subscriptions)
    assert {seed.document["status"] for seed in hidden} == {"canceled"}


def test_a_stream_without_seeds_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no seeds for costumers"):
        SeedPlan(counts={"costumers": 1})
