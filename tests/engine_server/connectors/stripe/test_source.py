import jsonschema
import orjson
import pytest
from google.protobuf.json_format import MessageToDict

from engine_server.connectors.protocols import ReadRequest
from engine_server.connectors.stripe.source import StripeSource
from engine_server.errors import ConnectionFailed, InputsNotSupported
from pipesync.v1.message_pb2 import SourceInput
from pipesync.v1.progress_pb2 import ConnectionStatus
from tests.engine_server.connectors.stripe.reading import QUICK, config_for, read, selected
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator


async def check(simulator: StripeSimulator, **config: object) -> ConnectionStatus:
    source = StripeSource(QUICK)
    [message] = [m async for m in source.check(config_for(simulator, **config), [])]
    return message.connection_status


@pytest.mark.parametrize("account_id", [None, "acct_simulator"])
async def test_a_check_succeeds_with_one_request(account_id: str | None) -> None:
    async with StripeSimulator() as simulator:
        status = await check(simulator, account_id=account_id)
        assert status.status == ConnectionStatus.STATUS_SUCCEEDED
        assert len(simulator.requests) == 1


async def test_a_check_with_a_bad_key_fails_with_the_words_of_stripe() -> None:
    async with StripeSimulator() as simulator:
        status = await check(simulator, api_key="sk_test_bad")
    assert status.status == ConnectionStatus.STATUS_FAILED
    assert "Invalid API Key provided" in status.message
    assert "request_id: req_" in status.message


async def test_a_check_of_an_api_out_of_reach_fails_naming_it(unused_tcp_port: int) -> None:
    async with StripeSimulator() as simulator:
        base_url = f"http://127.0.0.1:{unused_tcp_port}"
        status = await check(simulator, base_url=base_url)
    assert status.status == ConnectionStatus.STATUS_FAILED
    assert status.message.startswith(f"cannot reach {base_url}")


async def test_a_key_that_may_not_list_customers_is_good_all_the_same() -> None:
    async with StripeSimulator() as simulator:
        denied = errors.permission_denied("The provided key does not have the permission.")
        simulator.faults.add(faults.refuse(denied))
        status = await check(simulator)
    assert status.status == ConnectionStatus.STATUS_SUCCEEDED


async def test_discover_answers_the_catalog_without_the_network() -> None:
    async with StripeSimulator() as simulator:
        [message] = [m async for m in StripeSource().discover(config_for(simulator))]
        assert {"customers", "products"} <= {stream.name for stream in message.catalog.streams}
        assert len(simulator.requests) == 0


async def test_setup_asks_to_store_the_account_with_the_rest_of_the_configuration() -> None:
    async with StripeSimulator() as simulator:
        config = config_for(simulator, account_id=None, rate_limit=100)
        [message] = [m async for m in StripeSource(QUICK).setup(config, [])]
    assert MessageToDict(message.control.source_config) == {
        "api_key": simulator.api_key,
        "base_url": simulator.base_url,
        "account_id": simulator.account_id,
        "rate_limit": 100.0,
    }


async def test_setup_of_a_known_account_and_teardown_do_nothing() -> None:
    async with StripeSimulator() as simulator:
        config = config_for(simulator)
        assert [m async for m in StripeSource().setup(config, [])] == []
        assert [m async for m in StripeSource().teardown(config, [])] == []
        assert len(simulator.requests) == 0


async def test_records_carry_the_account_that_a_read_looks_up() -> None:
    async with StripeSimulator(SeedPlan(counts={"products": 2})) as simulator:
        config = config_for(simulator, account_id=None)
        request = ReadRequest(streams=[selected("products")])
        messages = [m async for m in StripeSource(QUICK).read(config, request)]
        source = [orjson.dumps(d) for d in simulator.objects("products").documents()]
    [batch] = [m.record_batch for m in messages if m.HasField("record_batch")]
    records = [orjson.loads(record) for record in batch.records]
    assert {record["_account_id"] for record in records} == {"acct_simulator"}
    for record in records:
        del record["_account_id"], record["_updated_at"]
    assert [orjson.dumps(record) for record in reversed(records)] == source


async def test_records_of_a_connected_account_carry_its_id() -> None:
    async with StripeSimulator() as simulator:
        simulator.connect("acct_connected", SeedPlan(counts={"products": 1}))
        config = config_for(simulator, stripe_account="acct_connected")
        request = ReadRequest(streams=[selected("products")])
        messages = [m async for m in StripeSource(QUICK).read(config, request)]
    [batch] = [m.record_batch for m in messages if m.HasField("record_batch")]
    assert orjson.loads(batch.records[0])["_account_id"] == "acct_connected"


async def test_an_account_that_the_key_may_not_see_fails_the_connection_with_a_way_out() -> None:
    async with StripeSimulator() as simulator:
        simulator.faults.add(faults.refuse(errors.permission_denied("no account for you")))
        with pytest.raises(ConnectionFailed, match="account_id can be configured instead"):
            await read(config_for(simulator, account_id=None), [selected("products")])


async def test_pushed_inputs_are_refused() -> None:
    async with StripeSimulator() as simulator:
        request = ReadRequest(streams=[], inputs=[SourceInput()])
        with pytest.raises(InputsNotSupported):
            await anext(StripeSource().read(config_for(simulator), request))


def test_the_spec_holds_valid_schemas() -> None:
    spec = StripeSource().spec()
    for schema in (spec.config_schema, spec.stream_state_schema):
        jsonschema.Draft202012Validator.check_schema(MessageToDict(schema))
