"""Messages of a read while it listens: the history, polls, and events in between."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import orjson
import pytest
import structlog

from engine_server.connectors.protocols import Messages, ReadRequest
from engine_server.connectors.stripe.account import Account
from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.events.ingress.listen import listen
from engine_server.connectors.stripe.events.intervals import ListeningIntervals
from engine_server.errors import ConnectorError
from pipesync.v1.message_pb2 import Message, RecordBatch, StateCheckpoint
from tests.end_to_end.listening import SECRET, free_port, post, released, until_logged
from tests.engine_server.connectors.stripe.events.builders import ACCOUNT, event, thin
from tests.engine_server.connectors.stripe.events.failing import OF_AN_OBJECT, refuse_lookups
from tests.engine_server.connectors.stripe.reading import config_for, selected
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.simulator import StripeSimulator

MADE = event("customer.created", {"id": "cus_1", "object": "customer"})
POLL_INTERVAL = 0.05


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def request_() -> ReadRequest:
    return ReadRequest(streams=[selected("customers")], listen=True)


def polled(text: str) -> Message:
    return Message(source_state=StateCheckpoint(data=text))


async def history() -> AsyncGenerator[Message, None]:
    yield Message(record_batch=RecordBatch(stream="customers"))


Listen = Callable[..., AsyncGenerator[Message, None]]


@pytest.fixture
def listens(
    client: StripeClient, simulator: StripeSimulator, request_: ReadRequest, port: int
) -> Listen:
    def start(
        poll: Callable[[int], Messages] | None = None, before: Callable[[], Messages] = history
    ) -> AsyncGenerator[Message, None]:
        return listen(
            client,
            config_for(simulator, webhook_port=port, webhook_secret=SECRET),
            request_,
            Account(id=ACCOUNT, created=None),
            history=before(),
            poll=poll,
            intervals=ListeningIntervals(poll_interval=POLL_INTERVAL),
        )

    return start


async def test_it_polls_repeatedly_up_to_now(listens: Listen) -> None:
    moments = []

    async def poll(until: int) -> AsyncGenerator[Message, None]:
        moments.append(until)
        yield polled(str(len(moments)))

    began, ticking = time.time(), time.monotonic()
    async with aclosing(listens(poll)) as messages:
        assert (await anext(messages)).record_batch.stream == "customers"
        states = [(await anext(messages)).source_state.data for _ in range(3)]
    assert states == ["1", "2", "3"]
    assert time.monotonic() - ticking >= 3 * POLL_INTERVAL
    assert all(int(began) <= moment <= time.time() for moment in moments)


async def test_arriving_events_are_applied_between_the_messages_of_a_long_poll(
    listens: Listen, request_: ReadRequest, port: int
) -> None:
    async def endless(_: int) -> AsyncGenerator[Message, None]:
        while True:
            await asyncio.sleep(0)
            yield polled("more")

    async with aclosing(listens(endless)) as messages:
        await anext(messages)
        posted = asyncio.create_task(post(port, MADE))
        kinds = []
        async for message in messages:
            kinds.append(message.WhichOneof("payload"))
            if message.HasField("barrier"):
                assert not posted.done()
                request_.barriers.passed(message.barrier)
                break
        assert kinds[-2:] == ["record_batch", "barrier"]
        # No further message is taken from the read: the barrier alone acknowledges.
        assert await posted == (200, "committed")


async def test_an_event_is_acknowledged_by_its_barrier_and_not_before(
    listens: Listen, request_: ReadRequest, port: int
) -> None:
    async with aclosing(listens()) as messages:
        await anext(messages)
        posted = asyncio.create_task(post(port, MADE))
        batch = await anext(messages)
        [record] = batch.record_batch.records
        assert orjson.loads(record)["id"] == "cus_1"
        barrier = await anext(messages)
        following = asyncio.create_task(anext(messages))
        done, _ = await asyncio.wait([posted, following], timeout=0.2)
        assert not done
        request_.barriers.passed(barrier.barrier)
        assert await posted == (200, "committed")
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_an_event_without_records_is_acknowledged_after_the_earlier_ones(
    listens: Listen, request_: ReadRequest, port: int
) -> None:
    async with aclosing(listens()) as messages:
        await anext(messages)
        posted = asyncio.create_task(post(port, event("product.created", {"object": "product"})))
        barrier = await anext(messages)
        assert barrier.HasField("barrier")
        request_.barriers.passed(barrier.barrier)
        assert await posted == (200, "committed")


@pytest.mark.parametrize("steps", range(4))
async def test_closing_at_any_point_acknowledges_no_event_and_stops_listening(
    listens: Listen, port: int, steps: int
) -> None:
    messages = listens()
    posted = None
    for step in range(steps):
        if step == 1:
            posted = asyncio.create_task(post(port, MADE))
        await anext(messages)
    await messages.aclose()
    if posted is not None:
        assert (await posted)[0] == 503
    await released(port)


async def test_a_failing_history_closes_the_ingresses(listens: Listen, port: int) -> None:
    async def failing() -> AsyncGenerator[Message, None]:
        yield polled("first")
        raise ConnectorError("no more")

    messages = listens(before=failing)
    await anext(messages)
    with structlog.testing.capture_logs() as logs:
        posted = asyncio.create_task(post(port, MADE))
        await until_logged(logs, "event_received")
    with pytest.raises(ConnectorError, match="no more"):
        await anext(messages)
    assert (await posted)[0] == 503
    await released(port)


async def test_an_event_that_keeps_failing_is_dead_lettered_in_full(
    listens: Listen, simulator: StripeSimulator, port: int
) -> None:
    refuse_lookups(simulator, "cus_1", refusal=OF_AN_OBJECT["400"])
    bad = thin("v1.customer.updated", "customer", "cus_1", "/v1/customers/cus_1")
    async with aclosing(listens()) as messages:
        await anext(messages)
        following = asyncio.create_task(anext(messages))
        for _ in range(12):
            assert not following.done()
            assert (await post(port, bad))[0] == 503
        letter = (await following).dead_letter
    assert letter.event_json == orjson.dumps(bad)
    assert (letter.event_id, letter.attempt_count) == (bad["id"], 12)
    assert "This customer cannot be retrieved." in letter.reason


async def test_a_failure_of_stripe_is_no_attempt_of_an_event(
    listens: Listen, simulator: StripeSimulator, request_: ReadRequest, port: int
) -> None:
    simulator.objects("customers").put({"id": "cus_1", "object": "customer"})
    outage = faults.refuse(errors.server_error(503))
    simulator.faults.add(outage, path="/v1/customers/cus_1", times=None)
    changed = thin("v1.customer.updated", "customer", "cus_1", "/v1/customers/cus_1")
    async with aclosing(listens()) as messages:
        await anext(messages)
        following = asyncio.create_task(anext(messages))
        for _ in range(13):
            assert (await post(port, changed))[0] == 503
            assert not following.done()
        simulator.faults.clear()
        posted = asyncio.create_task(post(port, changed))
        assert (await following).record_batch.stream == "customers"
        request_.barriers.passed((await anext(messages)).barrier)
        assert await posted == (200, "committed")


async def test_events_of_an_unreadable_type_are_acknowledged_with_one_warning(
    listens: Listen, simulator: StripeSimulator, request_: ReadRequest, port: int
) -> None:
    denied = errors.permission_missing("rk_test_1", "acct_simulator", "/v1/customers", "read")
    refuse_lookups(simulator, "*", refusal=denied)
    async with aclosing(listens()) as messages:
        await anext(messages)
        kinds: list[str] = []
        for number in range(2):
            named = f"cus_{number}"
            sent = thin("v1.customer.updated", "customer", named, f"/v1/customers/{named}")
            posted = asyncio.create_task(post(port, sent))
            while not kinds or kinds[-1] != "barrier":
                message = await anext(messages)
                kinds.append(message.WhichOneof("payload") or "")
            request_.barriers.passed(message.barrier)
            assert await posted == (200, "committed")
            kinds.append("answered")
    assert kinds == ["log", "barrier", "answered", "barrier", "answered"]
