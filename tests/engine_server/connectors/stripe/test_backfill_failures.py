"""Streams of a backfill that end with a failure, a refusal or a limit."""

from collections import Counter
from contextlib import aclosing

import pytest

from engine_server.connectors.protocols import ReadRequest
from engine_server.connectors.stripe.source import StripeSource
from engine_server.errored_streams import ErroredStreams
from engine_server.errors import ConnectionFailed, ConnectorError
from pipesync.v1.state_pb2 import SourceState
from tests.engine_server.connectors.stripe.accounts import STREAMS
from tests.engine_server.connectors.stripe.reading import (
    QUICK,
    config_for,
    read,
    selected,
)
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.simulator import StripeSimulator


@pytest.mark.parametrize("source_of_limit", ["config", "selection"])
async def test_a_backfill_limit_is_exact_across_a_resume(
    simulator: StripeSimulator, source_of_limit: str
) -> None:
    in_config = source_of_limit == "config"
    config = config_for(simulator, backfill_limit=230 if in_config else 7)
    streams = [selected("customers", backfill_limit=0 if in_config else 230)]
    before = await read(config, streams, stop_after=1)
    after = await read(config, streams, state=before.state)
    newest_first = [d["id"] for d in simulator.objects("customers").documents()][::-1]
    assert before.ids + after.ids == Counter(("customers", i) for i in newest_first[:230])
    assert after.turns("customers") == ["started", "completed"]
    raised = [selected("customers", backfill_limit=10_000)]
    rest = await read(config, raised, state=after.state)
    assert rest.ids == Counter(("customers", i) for i in newest_first[230:])


async def test_a_refused_stream_is_read_no_further(simulator: StripeSimulator) -> None:
    errored = ErroredStreams()
    request = ReadRequest(streams=[selected(n) for n in STREAMS], errored_streams=errored)
    source = StripeSource(QUICK)
    later: set[str] = set()
    async with aclosing(source.read(config_for(simulator, max_concurrency=2), request)) as messages:
        async for message in messages:
            if errored.names:
                payload = getattr(message, message.WhichOneof("payload") or "")
                later.add(payload.stream)
            elif message.HasField("source_state") and message.source_state.stream == "customers":
                errored.add("customers")
    assert later == {"products", "prices"}
    assert len(simulator.requests.of("/v1/customers")) <= 5


@pytest.mark.parametrize("max_concurrency", [1, 4])
async def test_pages_of_a_refused_stream_do_not_use_up_the_limit(
    simulator: StripeSimulator, max_concurrency: int
) -> None:
    errored = ErroredStreams()
    request = ReadRequest(
        streams=[selected(n) for n in STREAMS], errored_streams=errored, state_limit=5
    )
    config = config_for(simulator, max_concurrency=max_concurrency)
    checkpoints, completed = 0, set()
    async with aclosing(StripeSource(QUICK).read(config, request)) as messages:
        async for message in messages:
            if message.HasField("record_batch") and message.record_batch.stream == "customers":
                errored.add("customers")
            checkpoints += message.HasField("source_state")
            if message.stream_status.HasField("completed"):
                completed.add(message.stream_status.stream)
    assert checkpoints == 5 or completed == {"products", "prices"}


async def test_one_failing_stream_does_not_stop_the_others(simulator: StripeSimulator) -> None:
    bad = errors.invalid_request(400, "This is wrong.")
    simulator.faults.add(faults.refuse(bad), path="/v1/products", times=None)
    reading = await read(config_for(simulator), [selected(n) for n in STREAMS])
    assert reading.turns("products") == ["started", "errored"]
    assert reading.turns("customers") == reading.turns("prices") == ["started", "completed"]
    [message] = [s.errored.error for s in reading.statuses if s.HasField("errored")]
    assert "answered 400 to GET /v1/products: This is wrong.; request_id: req_" in message


@pytest.mark.parametrize(
    "refusal",
    [
        errors.permission_denied("The provided key does not have the required permissions."),
        errors.invalid_request(400, "Your account is not set up to use Issuing."),
        errors.invalid_request(400, "This endpoint is only available in testmode."),
    ],
)
async def test_an_unreadable_stream_is_skipped_with_stripes_message(
    simulator: StripeSimulator, refusal: errors.Refusal
) -> None:
    simulator.faults.add(faults.refuse(refusal), path="/v1/products", times=None)
    reading = await read(config_for(simulator), [selected("products"), selected("prices")])
    assert reading.turns("products") == ["started", "skipped"]
    assert reading.turns("prices") == ["started", "completed"]
    [skipped] = [s.skipped for s in reading.statuses if s.HasField("skipped")]
    assert str(refusal) in skipped.reason


async def test_a_range_that_fails_ends_its_stream_once(simulator: StripeSimulator) -> None:
    before = await read(config_for(simulator), [selected("customers")], stop_after=5)
    simulator.faults.add(
        faults.refuse(errors.invalid_request(400, "no")), path="/v1/customers", times=None
    )
    after = await read(config_for(simulator), [selected("customers")], state=before.state)
    assert after.turns("customers") == ["started", "errored"]


async def test_a_bad_key_ends_the_read_at_once(simulator: StripeSimulator) -> None:
    with pytest.raises(ConnectionFailed, match="Invalid API Key"):
        await read(
            config_for(simulator, api_key="sk_test_bad", max_concurrency=2),
            [selected(n) for n in STREAMS],
        )
    assert len(simulator.requests) <= 3


async def test_a_foreign_checkpoint_ends_the_read(simulator: StripeSimulator) -> None:
    state = SourceState(streams={"customers": '{"page": 3}'})
    with pytest.raises(ConnectorError, match="checkpoint of stream customers"):
        await read(config_for(simulator), [selected("customers")], state=state)
