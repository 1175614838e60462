import threading
from typing import Any

import jsonschema
import orjson
import pytest
from google.protobuf.json_format import MessageToDict

from engine_server.connectors.protocols import InputChecker, ReadRequest
from engine_server.connectors.stripe.source import StripeSource
from engine_server.errors import ConnectionFailed, SettingMissing
from pipesync.v1.message_pb2 import SourceInput, WebhookDelivery
from tests.engine_server.connectors.stripe.reading import QUICK, config_for, read, selected
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator


async def test_discover_returns_the_catalog_without_network() -> None:
    async with StripeSimulator() as simulator:
        [message] = [m async for m in StripeSource().discover(config_for(simulator))]
        assert {"customers", "products"} <= {stream.name for stream in message.catalog.streams}
        assert len(simulator.requests) == 0


async def test_a_started_engine_has_loaded_the_catalog(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded_by: list[int] = []
    monkeypatch.setattr(
        "engine_server.connectors.stripe.source.load_resources",
        lambda: loaded_by.append(threading.get_ident()),
    )
    async with StripeSource().lifespan():
        [thread] = loaded_by
    # Blocks the event loop long enough to delay other tasks.
    assert thread != threading.get_ident()


@pytest.mark.parametrize(
    "settings", [{"account_id": "acct_1"}, {"account_id": None, "stripe_account": "acct_1"}]
)
async def test_discover_names_the_account_that_is_configured(settings: dict[str, Any]) -> None:
    async with StripeSimulator() as simulator:
        for config, known in (
            (config_for(simulator, **settings), "acct_1"),
            (config_for(simulator, account_id=None), None),
        ):
            [message] = [m async for m in StripeSource().discover(config)]
            metadata = [MessageToDict(stream.metadata) for stream in message.catalog.streams]
            assert {fields.get("account_id") for fields in metadata} == {known}


async def test_setup_asks_to_store_the_account_with_the_rest_of_the_configuration() -> None:
    async with StripeSimulator() as simulator:
        config = config_for(simulator, account_id=None, rate_limit=100)
        [message] = [m async for m in StripeSource(QUICK).setup(config, [])]
    assert MessageToDict(message.control.source_config) == {
        "api_key": simulator.api_key,
        "base_url": simulator.base_url,
        "account_id": simulator.account_id,
        "account_created": simulator.account_created,
        "rate_limit": 100.0,
    }


async def test_setup_of_a_known_account_stores_nothing_and_teardown_does_nothing() -> None:
    async with StripeSimulator() as simulator:
        config = config_for(simulator, account_created=simulator.account_created)
        assert [m async for m in StripeSource(QUICK).setup(config, [])] == []
        assert [m async for m in StripeSource(QUICK).teardown(config, [])] == []
        assert [request.path for request in simulator.requests] == ["/v1/account"]


async def test_setup_with_the_account_of_another_key_is_refused() -> None:
    async with StripeSimulator() as simulator:
        config = config_for(simulator, account_id="acct_another")
        with pytest.raises(ConnectionFailed, match="account_id is acct_another, but api_key reads"):
            [m async for m in StripeSource(QUICK).setup(config, [])]


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


REFUSED = "The provided key 'rk_***' does not have the required permissions for this endpoint on "


@pytest.mark.parametrize(
    "words",
    [
        # https://github.com/stripe/stripe-node/issues/2246
        f"{REFUSED}account 'acct_1Named'. Having the 'rak_accounts_kyc_id_numbers_read' permis...",
        # https://github.com/dj-stripe/dj-stripe/pull/1131
        f"{REFUSED}account 'acct_1Named'. This is a restricted API key, but the required perm...",
        f"{REFUSED}account acct_1Named.",
        f'{REFUSED}account "acct_1Named"',
        f"{REFUSED}account `acct_1Named`. See https://dashboard.stripe.com/acct_1Named/apikeys.",
        "Permission denied. Account acct_1Named does not permit this key to read it.",
    ],
)
async def test_the_account_of_a_restricted_key_is_the_one_a_refusal_names(
    words: str,
) -> None:
    async with StripeSimulator(SeedPlan(counts={"products": 1})) as simulator:
        refusal = errors.permission_denied(words)
        simulator.faults.add(faults.refuse(refusal), path="/v1/account", times=None)
        config = config_for(simulator, account_id=None)
        reading = await read(config, [selected("products")])
        [record] = reading.records.values()
        assert record["_account_id"] == "acct_1Named"
        [message] = [m async for m in StripeSource(QUICK).setup(config, [])]
        assert MessageToDict(message.control.source_config)["account_id"] == "acct_1Named"
        [checked] = [m async for m in StripeSource(QUICK).check(config, [])]
    assert checked.connection_status.message == "reached account acct_1Named"


@pytest.mark.parametrize(
    "words",
    [
        f"{REFUSED}account 'acct_1*************3'.",
        f"{REFUSED}account acct_1...",
        f"{REFUSED}account.",
        "Account acct_1 may not read account acct_2.",
    ],
)
async def test_a_refusal_that_names_no_account_or_two_asks_for_account_id(words: str) -> None:
    async with StripeSimulator() as simulator:
        refusal = errors.permission_denied(words)
        simulator.faults.add(faults.refuse(refusal), path="/v1/account", times=None)
        with pytest.raises(ConnectionFailed, match="account_id can be configured instead"):
            await read(config_for(simulator, account_id=None), [selected("products")])


async def test_a_configured_connected_account_takes_precedence() -> None:
    async with StripeSimulator() as simulator:
        simulator.connect("acct_connected", SeedPlan(counts={"products": 1}))
        refusal = errors.permission_denied(f"{REFUSED}account 'acct_simulator'.")
        simulator.faults.add(faults.refuse(refusal), path="/v1/account", times=None)
        config = config_for(simulator, account_id=None, stripe_account="acct_connected")
        reading = await read(config, [selected("products")])
    [record] = reading.records.values()
    assert record["_account_id"] == "acct_connected"


async def test_an_unreadable_account_fails_the_connection_with_the_remedy() -> None:
    async with StripeSimulator() as simulator:
        simulator.faults.add(faults.refuse(errors.permission_denied("no account for you")))
        with pytest.raises(ConnectionFailed, match="account_id can be configured instead"):
            await read(config_for(simulator, account_id=None), [selected("products")])


async def test_a_delivery_that_cannot_be_verified_is_refused_before_a_read() -> None:
    async with StripeSimulator() as simulator:
        inputs = [SourceInput(webhook=WebhookDelivery())]
        source = StripeSource()
        assert isinstance(source, InputChecker)
        with pytest.raises(SettingMissing) as caught:
            source.check_inputs(config_for(simulator), inputs)
        assert caught.value.setting == "webhook_secret"
        [fault] = source.check_inputs(config_for(simulator, webhook_secret="whsec_1"), inputs)
        assert (fault.number, fault.field, fault.is_unverified) == (0, "webhook", True)


def test_the_spec_holds_valid_schemas() -> None:
    spec = StripeSource().spec()
    for schema in (spec.config_schema, spec.stream_state_schema, spec.source_input_schema):
        jsonschema.Draft202012Validator.check_schema(MessageToDict(schema))
