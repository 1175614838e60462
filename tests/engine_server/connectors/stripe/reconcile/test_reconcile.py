"""Records that a destination holds and no list shows."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from structlog.testing import capture_logs

from engine_server.connectors.conformance.leftovers import nothing_left_behind
from engine_server.errored_streams import ErroredStreams
from engine_server.errors import ConnectionFailed
from pipesync.v1.state_pb2 import SourceState
from tests.engine_server.connectors.stripe.accounts import END, even, fill
from tests.engine_server.connectors.stripe.nested import subscription
from tests.engine_server.connectors.stripe.reading import (
    Reading,
    config_for,
    read,
    selected,
)
from tests.engine_server.connectors.stripe.reconcile.held import Held
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.simulator import StripeSimulator

ITEMS = "subscription_items"


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator() as simulator:
        yield simulator


@pytest.fixture
def held(simulator: StripeSimulator) -> Held:
    """Return 250 customers, all of which the account has, too."""
    fill(simulator, "customers", even(250))
    held = Held()
    held.hold("customers", simulator.objects("customers").documents())
    return held


async def reconcile(
    simulator: StripeSimulator, held: Held, *streams: str, **options: Any
) -> Reading:
    config = config_for(simulator, **options.pop("config", {}))
    return await read(
        config,
        [selected(name) for name in streams or ("customers",)],
        stored_rows=held,
        reconcile=True,
        **options,
    )


def deleted(reading: Reading, stream: str = "customers") -> set[str]:
    return {
        object_id
        for (name, object_id), record in reading.records.items()
        if name == stream and record.get("deleted") is True
    }


async def test_no_object_is_retrieved_if_none_is_missing(
    simulator: StripeSimulator, held: Held
) -> None:
    reading = await reconcile(simulator, held)
    assert len(reading.ids) == 250
    # The account is verified once.
    assert len(simulator.requests.of("/v1/account")) == 1
    assert len(simulator.requests) == len(simulator.requests.of("/v1/customers")) + 1
    assert held.accounts == {simulator.account_id}


async def test_stored_rows_are_only_queried_while_reconciling(
    simulator: StripeSimulator, held: Held
) -> None:
    simulator.objects("customers").delete("obj_7")
    await read(config_for(simulator), [selected("customers")], stored_rows=held)
    assert held.asked == []
    assert not simulator.requests.of("/v1/customers/*")


async def test_only_objects_that_stripe_reports_as_missing_are_deleted(
    simulator: StripeSimulator, held: Held
) -> None:
    objects = simulator.objects("customers")
    objects.delete("obj_3")
    # Stripe's response for an object deleted through its API.
    objects.put({"id": "obj_50", "created": END - 1 - 600 * 50, "deleted": True}, listed=False)
    # For example on a test clock.
    hidden = {"id": "obj_249", "created": END - 1 - 600 * 249, "name": "hidden"}
    objects.put(hidden, listed=False)
    reading = await reconcile(simulator, held)
    assert deleted(reading) == {"obj_3", "obj_50"}
    gone = reading.records["customers", "obj_3"]
    assert gone.keys() == {"id", "deleted", "_account_id", "_updated_at"}
    assert gone["_account_id"] == simulator.account_id
    found = reading.records["customers", "obj_249"]
    assert {**found, **hidden} == found
    assert found["_account_id"] == simulator.account_id
    assert len(simulator.requests.of("/v1/customers/*")) == 3


async def test_an_empty_list_deletes_no_existing_object(
    simulator: StripeSimulator, held: Held
) -> None:
    objects = simulator.objects("customers")
    for document in list(objects.documents()):
        objects.put(document, listed=False)
    reading = await reconcile(simulator, held)
    assert deleted(reading) == set()
    assert len(reading.ids) == 250


async def test_an_empty_list_deletes_all_missing_objects(
    simulator: StripeSimulator, held: Held
) -> None:
    objects = simulator.objects("customers")
    for object_id in objects.ids():
        objects.delete(object_id)
    reading = await reconcile(simulator, held)
    assert len(deleted(reading)) == 250


@pytest.mark.parametrize(
    "refusal",
    [
        errors.permission_denied("The provided key does not have the required permissions."),
        errors.invalid_request(404, "Unrecognized request URL (GET: /v1/customers/obj_3)."),
        errors.invalid_request(
            404,
            "No such customer: 'obj_3'; a similar object exists in live mode, but a test mode key "
            "was used to make this request.",
            code="resource_missing",
            param="id",
        ),
        errors.server_error(500),
    ],
    ids=["permission", "url", "other mode", "500"],
)
async def test_a_failed_retrieval_deletes_nothing_and_the_stream_continues(
    simulator: StripeSimulator, held: Held, refusal: errors.Refusal
) -> None:
    simulator.objects("customers").delete("obj_3")
    simulator.objects("customers").delete("obj_200")
    simulator.faults.add(faults.refuse(refusal), path="/v1/customers/obj_3", times=None)
    with capture_logs() as logs:
        reading = await reconcile(simulator, held)
    assert deleted(reading) == {"obj_200"}
    assert reading.turns("customers") == ["started", "completed"]
    [line] = [line for line in logs if line["event"] == "reconcile_unverified"]
    assert (line["stream"], line["objects"]) == ("customers", 1)
    assert "/v1/customers/obj_3" in line["error"]


async def test_a_proxy_that_answers_404_deletes_nothing(
    simulator: StripeSimulator, held: Held
) -> None:
    simulator.objects("customers").delete("obj_3")
    simulator.faults.add(faults.html(404), path="/v1/customers/obj_3", times=None)
    assert deleted(await reconcile(simulator, held)) == set()


async def test_retrievals_stop_after_many_failures(simulator: StripeSimulator, held: Held) -> None:
    objects = simulator.objects("customers")
    for object_id in objects.ids():
        objects.delete(object_id)
    refusal = errors.permission_denied("The provided key does not have the required permissions.")
    simulator.faults.add(faults.refuse(refusal), path="/v1/customers/*", times=None)
    with capture_logs() as logs:
        reading = await reconcile(simulator, held)
    assert reading.turns("customers") == ["started", "completed"]
    assert deleted(reading) == set()
    assert len(simulator.requests.of("/v1/customers/*")) < 20
    [line] = [line for line in logs if line["event"] == "reconcile_unverified"]
    assert line["objects"] == 250


async def test_a_key_of_another_account_reads_nothing(
    simulator: StripeSimulator, held: Held
) -> None:
    with pytest.raises(ConnectionFailed, match="acct_other"):
        await reconcile(simulator, held, config={"account_id": "acct_other"})
    assert not simulator.requests.of("/v1/customers*")


async def test_a_key_that_is_refused_meanwhile_ends_the_read(
    simulator: StripeSimulator, held: Held
) -> None:
    simulator.objects("customers").delete("obj_3")
    refusal = errors.expired_key("sk_test_simulator")
    simulator.faults.add(faults.refuse(refusal), path="/v1/customers/*", times=None)
    with pytest.raises(ConnectionFailed):
        await reconcile(simulator, held)


async def test_objects_beyond_a_limit_are_left_alone(
    simulator: StripeSimulator, held: Held
) -> None:
    objects = simulator.objects("customers")
    for number in (10, 149, 200):
        objects.delete(f"obj_{number}")
    reading = await reconcile(simulator, held, config={"backfill_limit": 120})
    assert deleted(reading) == {"obj_10"}


async def test_deletions_come_before_the_checkpoint_that_accounts_for_them(
    simulator: StripeSimulator, held: Held
) -> None:
    simulator.objects("customers").delete("obj_240")
    last: list[bool] = []

    def look(reading: Reading) -> None:
        accounted = '"remaining":[]' in reading.state.streams["customers"]
        last.append(accounted)
        assert not accounted or ("customers", "obj_240") in reading.records

    await reconcile(simulator, held, on_checkpoint=look)
    assert last[-1]


@pytest.mark.parametrize("portion", [7, 5_000])
async def test_each_call_makes_progress_however_many_objects_a_list_hides(
    simulator: StripeSimulator, portion: int
) -> None:
    objects, held = simulator.objects("customers"), Held(portion=portion)
    fill(simulator, "customers", [*even(450), *[END - 90_000] * 250])
    held.hold("customers", objects.documents())
    for number, document in enumerate(list(objects.documents())):
        objects.put(document, listed=number % 300 == 0)
    state, calls = SourceState(), 0
    turns: list[str] = []
    while turns[-1:] != ["completed"]:
        calls += 1
        reading = await reconcile(simulator, held, state=state, stop_after=1, state_limit=1)
        state, turns = reading.state, reading.turns("customers")
        assert deleted(reading) == set()
        assert calls < 20
    # At most the objects of one call are retrieved again.
    assert calls > 3
    retrieved = len(simulator.requests.of("/v1/customers/*"))
    assert retrieved < 700 + 100 * calls


async def test_a_list_without_times_is_compared_once_it_was_read_in_full(
    simulator: StripeSimulator,
) -> None:
    features = simulator.objects("entitlements_features")
    for number in range(230):
        features.put({"id": f"feat_{number}", "object": "entitlements.feature"})
    held = Held()
    held.hold("entitlements_features", features.documents())
    features.delete("feat_1")
    features.delete("feat_229")
    reading = await reconcile(simulator, held, "entitlements_features")
    assert deleted(reading, "entitlements_features") == {"feat_1", "feat_229"}
    assert held.asked == [("entitlements_features", None, None)]


async def test_a_resumed_list_without_times_is_not_compared_with_a_warning(
    simulator: StripeSimulator,
) -> None:
    features = simulator.objects("entitlements_features")
    for number in range(230):
        features.put({"id": f"feat_{number}", "object": "entitlements.feature"})
    held = Held()
    held.hold("entitlements_features", features.documents())
    features.delete("feat_1")
    # One run: with a later end it would be read again, and compared.
    until = Timestamp(seconds=END)
    begun = await reconcile(simulator, held, "entitlements_features", until=until, stop_after=1)
    with capture_logs() as logs:
        reading = await reconcile(
            simulator, held, "entitlements_features", until=until, state=begun.state
        )
    assert deleted(reading, "entitlements_features") == set()
    assert held.asked == []
    [line] = [line for line in logs if line["event"] == "reconcile_incomplete"]
    assert line["stream"] == "entitlements_features"


async def test_items_of_lists_are_compared_with_those_of_their_parent(
    simulator: StripeSimulator,
) -> None:
    for number in range(120):
        document = subscription(simulator, 12, f"sub_{number}", created=END - number)
        simulator.objects("subscriptions").put(document)
    held = Held()
    gone = {"si_gone_1", "si_gone_2"}
    held.hold(ITEMS, [{"id": f"si_sub_5_{one}", "subscription": "sub_5"} for one in range(12)])
    held.hold(ITEMS, [{"id": one, "subscription": "sub_5"} for one in gone])
    # The items of a subscription that no list shows are unknown.
    held.hold(ITEMS, [{"id": "si_other", "subscription": "sub_unknown"}])
    reading = await reconcile(simulator, held, ITEMS)
    assert deleted(reading, ITEMS) == gone
    assert len(simulator.requests.of("/v1/subscription_items/*")) == 2


async def test_an_item_is_retrieved_beneath_its_parent(simulator: StripeSimulator) -> None:
    simulator.objects("transfers").put(
        {
            "id": "tr_1",
            "created": END,
            "reversals": {"object": "list", "data": [], "has_more": False, "url": "/v1/x"},
        }
    )
    held = Held()
    held.hold("transfer_reversals", [{"id": "trr_1", "transfer": "tr_1"}])
    missing = errors.resource_missing(404, "transfer_reversal", "trr_1", "id")
    simulator.faults.add(
        faults.refuse(missing), path="/v1/transfers/tr_1/reversals/trr_1", times=None
    )
    reading = await reconcile(simulator, held, "transfer_reversals")
    assert deleted(reading, "transfer_reversals") == {"trr_1"}


async def test_a_disconnected_account_is_deleted(simulator: StripeSimulator) -> None:
    held = Held()
    held.hold("accounts", [{"id": "acct_left", "created": END}])
    refusal = errors.account_invalid("sk_test_simulator", "acct_left")
    simulator.faults.add(faults.refuse(refusal), path="/v1/accounts/acct_left", times=None)
    reading = await reconcile(simulator, held, "accounts")
    assert deleted(reading, "accounts") == {"acct_left"}


async def test_chosen_ids_lead_to_no_other_url(simulator: StripeSimulator) -> None:
    held = Held()
    odd = ["..", ".", "50%", "ümlaut ?x=1"]
    held.hold("coupons", [{"id": one, "created": END} for one in odd])
    reading = await reconcile(simulator, held, "coupons")
    assert deleted(reading, "coupons") == set(odd[2:])
    assert not simulator.requests.of("/v1")


async def test_a_refused_stream_is_no_longer_compared(
    simulator: StripeSimulator, held: Held
) -> None:
    objects = simulator.objects("customers")
    for object_id in objects.ids():
        objects.delete(object_id)
    await reconcile(simulator, held, errored_streams=ErroredStreams({"customers"}))
    assert held.asked == []


async def test_closing_during_a_retrieval_leaves_no_task(
    simulator: StripeSimulator, held: Held
) -> None:
    simulator.objects("customers").delete("obj_3")
    simulator.faults.add(faults.stall(asyncio.Event()), path="/v1/customers/obj_3", times=None)
    async with nothing_left_behind():
        reading = asyncio.create_task(reconcile(simulator, held))
        await simulator.requests.wait_for("/v1/customers/obj_3")
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
