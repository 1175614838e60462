"""Events about one object in the same second, in the wrong order."""

import asyncio
import itertools
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest

from engine_server.connectors.stripe.events.same_second import SameSecond, Turn
from pipesync.v1 import engine_service_pb2 as pb
from pipesync.v1.message_pb2 import SourceInput
from pipesync_client import EngineClient
from tests.end_to_end.stripe_pipeline import StripePipeline, selections, served_engine
from tests.end_to_end.tables import documents
from tests.engine_server.connectors.stripe.events.builders import scope
from tests.messages import struct
from tests.stripe_simulator.simulator import StripeSimulator

Document = dict[str, Any]


def _two_updates(simulator: StripeSimulator) -> tuple[Document, list[Document]]:
    """Return the final customer, and the events of its two updates in one second."""
    customer = simulator.create("customers", {"name": "first"})
    simulator.clock.advance(5)
    events: list[Document] = []
    simulator.on_event(lambda happened: events.append(orjson.loads(happened.body)))
    simulator.update("customers", customer["id"], {"name": "second"})
    last = simulator.update("customers", customer["id"], {"name": "third"})
    assert events[0]["created"] == events[1]["created"]
    return last, events


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in order", "out of order"])
@pytest.mark.parametrize("together", [True, False], ids=["in one request", "in two"])
async def test_the_row_equals_the_object_in_any_order_of_two_events(
    database_url: str, order: tuple[int, int], together: bool
) -> None:
    async with StripeSimulator() as simulator, served_engine() as client:
        last, events = _two_updates(simulator)
        pipeline = StripePipeline(
            simulator=simulator, database_url=database_url, streams=selections("customers")
        )
        inputs = [SourceInput(event=struct(events[number])) for number in order]
        for pushed in [inputs] if together else [[one] for one in inputs]:
            request = pb.PipelineSyncBatchRequest(pipeline=pipeline.config(), inputs=pushed)
            eof = (await client.pipeline_sync_batch(request)).eof
            assert not eof.failure_message
        looked_up = simulator.requests.of("/v1/customers/*")
    assert await documents(database_url, "customers") == [last]
    assert len(looked_up) == 1


async def _push(client: EngineClient, pipeline: StripePipeline, event: Document) -> None:
    request = pb.PipelineSyncBatchRequest(
        pipeline=pipeline.config(), inputs=[SourceInput(event=struct(event))]
    )
    assert not (await client.pipeline_sync_batch(request)).eof.failure_message


async def test_an_event_without_a_change_still_outdates_earlier_ones(
    database_url: str,
) -> None:
    async with StripeSimulator() as simulator, served_engine() as client:
        customer = simulator.create("customers", {"name": "first"})
        events: list[Document] = []
        simulator.on_event(lambda happened: events.append(orjson.loads(happened.body)))
        for name in ("second", "first"):
            simulator.clock.advance(5)
            simulator.update("customers", customer["id"], {"name": name})
        pipeline = StripePipeline(
            simulator=simulator, database_url=database_url, streams=selections("customers")
        )
        await client.pipeline_sync_batch(pb.PipelineSyncBatchRequest(pipeline=pipeline.config()))
        for event in reversed(events):
            await _push(client, pipeline, event)
    assert await documents(database_url, "customers") == [customer]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_the_last_state_of_a_deleted_object_is_kept_in_any_order(
    database_url: str, order: tuple[int, ...]
) -> None:
    async with StripeSimulator() as simulator, served_engine() as client:
        last, events = _two_updates(simulator)
        simulator.delete("customers", last["id"])
        assert {event["created"] for event in events} == {events[0]["created"]}
        pipeline = StripePipeline(
            simulator=simulator, database_url=database_url, streams=selections("customers")
        )
        for number in order:
            await _push(client, pipeline, events[number])
    [row] = await documents(database_url, "customers")
    assert row == {**last, "deleted": True}


class _Held:
    """One stored customer; records the queries."""

    def __init__(self) -> None:
        self.asked: list[set[str]] = []

    async def update_times(
        self, stream: str, ids: Collection[str], *, account_id: str = ""
    ) -> Mapping[str, int]:
        assert (stream, account_id) == ("customers", "acct_simulator")
        self.asked.append(set(ids))
        return {"cus_held": 100} if "cus_held" in ids else {}


async def _is_unsure(same_second: SameSecond, object_id: str, second: int) -> bool:
    async with same_second.turn("customers", object_id, second) as is_unsure:
        return is_unsure


async def test_rows_of_the_same_second_are_queried_together() -> None:
    held = _Held()
    async with SameSecond(replace(scope("customers"), stored_rows=held)) as same_second:  # type: ignore[arg-type]  # asked one thing
        asked = [("cus_held", 100), ("cus_held", 101), ("cus_new", 100), ("cus_new", 100)]
        unsure = await asyncio.gather(*[_is_unsure(same_second, *one) for one in asked])
        assert unsure == [True, False, False, True]
        assert held.asked[0] == {"cus_held", "cus_new"}
        # A later second takes precedence from then on.
        assert await _is_unsure(same_second, "cus_new", 102) is False
        assert await _is_unsure(same_second, "cus_new", 100) is False


async def test_an_unselected_stream_is_not_queried() -> None:
    held = _Held()
    async with SameSecond(replace(scope("prices"), stored_rows=held)) as same_second:  # type: ignore[arg-type]  # asked nothing
        assert await _is_unsure(same_second, "cus_held", 100) is False
        assert await _is_unsure(same_second, "cus_held", 100) is True
    assert held.asked == []


async def test_a_failed_event_is_not_recorded() -> None:
    async with SameSecond(scope("customers")) as same_second:
        for _ in range(2):
            turn = same_second.turn("customers", "cus_1", 100)
            assert not await turn.__aenter__()
            error = ZeroDivisionError()
            assert not await turn.__aexit__(ZeroDivisionError, error, None)


async def test_events_of_one_object_take_turns_and_others_run_concurrently() -> None:
    async with SameSecond(scope("customers")) as same_second, asyncio.TaskGroup() as tasks:
        answered, others = asyncio.Event(), asyncio.Event()
        began: list[str] = []

        async def take(object_id: str, name: str) -> None:
            async with same_second.turn("customers", object_id, 100):
                began.append(name)
                if object_id == "cus_2":
                    others.set()
                await answered.wait()

        for object_id, name in [("cus_1", "first"), ("cus_1", "second"), ("cus_2", "other")]:
            tasks.create_task(take(object_id, name))
        await others.wait()
        assert began == ["first", "other"]
        answered.set()
    assert began == ["first", "other", "second"]


async def test_an_items_row_counts_for_the_second_too() -> None:
    async with SameSecond(scope("subscription_items")) as same_second:
        items = [("subscription_items", "si_1"), ("subscription_items", "si_2")]
        async with same_second.turn("subscriptions", "sub_1", 100, items=items) as is_unsure:
            assert not is_unsure
        async with same_second.turn("subscription_items", "si_2", 100) as is_unsure:
            assert is_unsure
        turn = same_second.turn("subscriptions", "sub_2", 100)
        async with turn as is_unsure:
            assert not is_unsure
            # This row was not recorded.
            turn.made([("subscription_items", "si_3")])
        async with same_second.turn("subscription_items", "si_3", 100) as is_unsure:
            assert is_unsure


async def test_an_abandoned_turn_lets_no_event_overtake() -> None:
    async with SameSecond(scope("customers")) as same_second:
        began: list[str] = []

        async def take(turn: Turn, name: str) -> None:
            async with turn:
                began.append(name)

        first, given_up, last = (same_second.turn("customers", "cus_1", 100) for _ in range(3))
        await first.__aenter__()
        waiting = asyncio.create_task(take(last, "last"))
        given_up.release()
        await asyncio.sleep(0)
        assert began == []
        await first.__aexit__(None, None, None)
        await waiting
        assert began == ["last"]


async def test_turns_with_several_rows_keep_the_order_of_each_row() -> None:
    async with SameSecond(scope("customers", "tax_ids")) as same_second:
        began: list[str] = []
        # A part and its whole, then each of them alone: all numbers are taken at once.
        part = same_second.turn("tax_ids", "txi_1", 100)
        whole = same_second.turn("customers", "cus_1", 100)
        later = same_second.turn("customers", "cus_1", 100)

        async def take(name: str, *turns: Turn) -> None:
            for turn in turns:
                async with turn:
                    began.append(name)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(take("later", later))
            tasks.create_task(take("first", part, whole))
        assert began == ["first", "first", "later"]
