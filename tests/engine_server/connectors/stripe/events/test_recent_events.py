"""Recent events as an input: fetched by the source, without a checkpoint."""

import time

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from engine_server.errors import ConnectorError
from pipesync.v1.message_pb2 import RecentEvents, SourceInput
from tests.engine_server.connectors.stripe.events.builders import event
from tests.engine_server.connectors.stripe.events.polling_reads import streams
from tests.engine_server.connectors.stripe.reading import Reading, config_for, read
from tests.messages import struct
from tests.stripe_simulator.simulator import StripeSimulator

DAY = 86_400


async def push(simulator: StripeSimulator, *inputs: SourceInput, **config: object) -> Reading:
    return await read(
        config_for(simulator, **config), [], selected=streams("customers"), inputs=inputs
    )


def recent(created_after: int | None = None, limit: int = 0) -> SourceInput:
    after = Timestamp(seconds=created_after) if created_after is not None else None
    return SourceInput(recent_events=RecentEvents(created_after=after, limit=limit))


def populate(simulator: StripeSimulator) -> list[str]:
    """Create a customer a day for 20 days, and 150 within the last second; oldest first."""
    now = int(time.time())
    ids = []
    for day in range(20, 0, -1):
        simulator.clock.set(now - day * DAY)
        ids.append(simulator.create("customers")["id"])
    simulator.clock.set(now - 1)
    return ids + [simulator.create("customers")["id"] for _ in range(150)]


async def test_all_recent_events_are_applied_oldest_first_without_a_checkpoint(
    simulator: StripeSimulator,
) -> None:
    ids = populate(simulator)
    for name in "AB":
        simulator.update("customers", ids[0], {"name": name})
    reading = await push(simulator, recent())
    assert reading.checkpoints == 0
    assert set(reading.ids) == {("customers", name) for name in ids}
    assert reading.ids["customers", ids[0]] == 3
    assert reading.records["customers", ids[0]]["name"] == "B"


@pytest.mark.parametrize("limit", [1, 99, 100, 101, 150, 160, 170, 1_000])
async def test_a_limit_takes_the_newest(simulator: StripeSimulator, limit: int) -> None:
    ids = populate(simulator)
    reading = await push(simulator, recent(limit=limit))
    assert list(reading.records) == [("customers", name) for name in ids[-limit:]]


async def test_events_since_a_time_are_applied_beside_given_ones(
    simulator: StripeSimulator,
) -> None:
    ids = populate(simulator)
    pushed = SourceInput(
        event=struct(event("customer.created", {"id": "cus_pushed", "object": "customer"}))
    )
    after = int(time.time()) - 2 * DAY - 60
    reading = await push(simulator, pushed, recent(after), pushed)
    assert set(reading.ids) == {("customers", name) for name in [*ids[-152:], "cus_pushed"]}
    assert reading.ids["customers", "cus_pushed"] == 2


async def test_unavailable_events_are_reported(simulator: StripeSimulator) -> None:
    with pytest.raises(ConnectorError, match=r"created_after is 40 days ago, .* for 30 days"):
        await push(simulator, recent(int(time.time()) - 40 * DAY))
    with pytest.raises(ConnectorError, match=r"recent_events\.limit must be 0"):
        await push(simulator, recent(limit=-1))
    simulator.restrict_key("rk_test_restricted", may_read=["/v1/customers"])
    with pytest.raises(ConnectorError, match=r"permission to read them \(Events: Read\)"):
        await push(simulator, recent(), api_key="rk_test_restricted")
