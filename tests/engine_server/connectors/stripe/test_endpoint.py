"""Webhook endpoint that setup registers at Stripe, and teardown removes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
from aiohttp import web
from google.protobuf.json_format import MessageToDict

from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.catalog.streams import api_version
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.source import StripeSource
from engine_server.connectors.stripe.webhook_endpoint.event_types import event_types_for
from engine_server.errors import ConnectionFailed, ConnectorError
from pipesync.v1.message_pb2 import Message, PlannedRemoval
from tests.engine_server.connectors.stripe.reading import QUICK, config_for, selected
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.odd_pages import empty_page
from tests.stripe_simulator.simulator import StripeSimulator
from tests.stripe_simulator_tests.webhook_receiver import WebhookReceiver

URL = "https://example.com/webhooks/acme"
PATH = "/v1/webhook_endpoints"
STREAMS = ("customers", "invoices")
RESTRICTED = "rk_test_restricted"


@dataclass(frozen=True, kw_only=True)
class Done:
    """Result of a setup: the new configuration, whether it is to be stored, and the logs."""

    config: StripeConfig
    is_stored: bool
    logs: list[str]


async def set_up(config: StripeConfig, streams: Sequence[str] = STREAMS) -> Done:
    logs, stored = [], []
    async for message in StripeSource(QUICK).setup(config, [selected(name) for name in streams]):
        if message.HasField("control"):
            stored.append(StripeConfig.model_validate(MessageToDict(message.control.source_config)))
        else:
            logs.append(message.log.message)
    assert len(stored) <= 1, "one message with everything"
    return Done(config=stored[0] if stored else config, is_stored=bool(stored), logs=logs)


async def tear_down(config: StripeConfig) -> list[str]:
    return [message.log.message async for message in StripeSource(QUICK).teardown(config, [])]


def endpoints(simulator: StripeSimulator) -> list[dict[str, Any]]:
    return list(simulator.objects("webhook_endpoints").documents())


def writes(simulator: StripeSimulator) -> int:
    return sum(request.method != "GET" for request in simulator.requests)


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator() as simulator:
        yield simulator


@pytest.fixture
def config(simulator: StripeSimulator) -> StripeConfig:
    return config_for(simulator, account_id=None, webhook_url=URL)


async def test_setup_registers_an_endpoint_and_asks_to_store_its_secret(
    simulator: StripeSimulator, config: StripeConfig
) -> None:
    done = await set_up(config)
    [made] = endpoints(simulator)
    assert (made["url"], made["api_version"], made["status"]) == (URL, api_version(), "enabled")
    assert made["enabled_events"] == event_types_for(STREAMS)
    assert made["metadata"] == {
        "managed_by": "pipesync",
        "pipesync_account": simulator.account_id,
    }
    assert done.config.webhook_endpoint_id == made["id"]
    assert [secret[:6] for secret in done.config.webhook_secrets] == ["whsec_"]
    assert (done.config.account_id, done.config.webhook_url) == (simulator.account_id, URL)
    assert done.logs == [f"registered webhook endpoint {made['id']} for {URL}"]


async def test_deliveries_are_signed_with_the_stored_secret(
    simulator: StripeSimulator,
) -> None:
    async with WebhookReceiver() as receiver:
        done = await set_up(config_for(simulator, webhook_url=receiver.url))
        [receiver.secret] = done.config.webhook_secrets
        customer = simulator.create("customers")
        simulator.create("coupons")
        await simulator.deliveries.settled()
        assert [event["data"]["object"]["id"] for event in receiver.events] == [customer["id"]]


async def test_repeating_setup_changes_nothing(
    simulator: StripeSimulator, config: StripeConfig
) -> None:
    first = await set_up(config)
    before = writes(simulator)
    again = await set_up(first.config)
    assert (again.is_stored, again.logs, writes(simulator)) == (False, [], before)


async def test_another_selection_changes_the_event_types(
    simulator: StripeSimulator, config: StripeConfig
) -> None:
    first = await set_up(config)
    again = await set_up(first.config, ["prices"])
    [endpoint] = endpoints(simulator)
    assert endpoint["enabled_events"] == ["price.created", "price.deleted", "price.updated"]
    assert endpoint["id"] == first.config.webhook_endpoint_id
    assert again.logs == [f"changed the event types of webhook endpoint {endpoint['id']}"]
    assert not again.is_stored


async def test_a_disabled_endpoint_is_enabled_again(
    simulator: StripeSimulator, config: StripeConfig
) -> None:
    first = await set_up(config)
    [endpoint] = endpoints(simulator)
    simulator.objects("webhook_endpoints").put({**endpoint, "status": "disabled"})
    again = await set_up(first.config)
    assert endpoints(simulator) == [endpoint]
    assert again.logs == [f"enabled webhook endpoint {endpoint['id']} again"]


async def test_the_endpoint_is_found_on_any_page(
    simulator: StripeSimulator, config: StripeConfig
) -> None:
    first = await set_up(config)
    [own] = endpoints(simulator)
    for number in range(250):
        simulator.objects("webhook_endpoints").put({**own, "id": f"we_{number}", "metadata": {}})
    before = writes(simulator)
    again = await set_up(first.config)
    assert (again.is_stored, again.logs, writes(simulator)) == (False, [], before)
    pages = [request for request in simulator.requests if request.path == PATH]
    assert len(pages) == 2 + 3


async def test_another_api_version_replaces_the_endpoint_and_removes_the_old_one_last(
    simulator: StripeSimulator, config: StripeConfig
) -> None:
    first = await set_up(config)
    changed = first.config.model_copy(update={"api_version": "2025-03-31.basil"})
    messages = StripeSource(QUICK).setup(changed, [selected(name) for name in STREAMS])
    control = (await anext(messages)).control
    # Until the secret is passed on, both exist.
    old, new = endpoints(simulator)
    logs = [message.log.message async for message in messages]
    assert endpoints(simulator) == [new]
    # The event types of that version are unknown.
    assert (new["api_version"], new["enabled_events"]) == ("2025-03-31.basil", ["*"])
    stored = StripeConfig.model_validate(MessageToDict(control.source_config))
    assert stored.webhook_endpoint_id == new["id"] != old["id"]
    # Deliveries in flight to the old endpoint can still be verified.
    assert len(set(stored.webhook_secrets)) == 2
    assert stored.webhook_secrets[1:] == first.config.webhook_secrets
    assert logs == [
        f"registered webhook endpoint {new['id']} for {URL}",
        f"removed webhook endpoint {old['id']} for {URL}",
    ]
    back = await set_up(stored.model_copy(update={"api_version": None}))
    assert len(back.config.webhook_secrets) == 2, "no more than one from before"


async def test_an_endpoint_whose_secret_was_never_stored_is_replaced(
    simulator: StripeSimulator, config: StripeConfig
) -> None:
    # The setup failed before its result was stored.
    lost = (await set_up(config)).config.webhook_endpoint_id
    again = await set_up(config)
    [endpoint] = endpoints(simulator)
    assert again.config.webhook_endpoint_id == endpoint["id"] != lost
    assert f"removed webhook endpoint {lost} for {URL}" in again.logs
    assert not (await set_up(again.config)).is_stored


async def test_concurrent_setups_end_with_one_endpoint(
    simulator: StripeSimulator, config: StripeConfig
) -> None:
    first, last = await asyncio.gather(set_up(config), set_up(config))
    assert first.config.webhook_endpoint_id != last.config.webhook_endpoint_id
    again = await set_up(last.config)
    [endpoint] = endpoints(simulator)
    assert again.config.webhook_endpoint_id == endpoint["id"]


async def test_a_lost_response_creates_no_second_endpoint(
    simulator: StripeSimulator, config: StripeConfig
) -> None:
    simulator.faults.add(faults.truncated_body(), path=PATH, method="POST")
    done = await set_up(config)
    [endpoint] = endpoints(simulator)
    assert done.config.webhook_endpoint_id == endpoint["id"]
    assert sum(request.method == "POST" for request in simulator.requests) == 2


async def test_pipelines_leave_each_others_endpoints_alone(
    simulator: StripeSimulator, config: StripeConfig
) -> None:
    by_hand = simulator.register_webhook(URL)["id"]
    other_config = config_for(simulator, webhook_url="https://example.com/webhooks/other")
    other = await set_up(other_config)
    own = await set_up(config)
    others = f"{other.config.webhook_endpoint_id} for https://example.com/webhooks/other"
    assert own.logs[1:] == [f"left other webhook endpoints of pipesync alone: {others}"]
    assert len(endpoints(simulator)) == 3
    removed = f"removed webhook endpoint {own.config.webhook_endpoint_id} for {URL}"
    assert await tear_down(own.config) == [removed]
    assert {endpoint["id"] for endpoint in endpoints(simulator)} == {
        by_hand,
        other.config.webhook_endpoint_id,
    }
    assert not (await set_up(other.config)).is_stored


async def test_another_url_moves_the_endpoint_there(
    simulator: StripeSimulator, config: StripeConfig
) -> None:
    first = await set_up(config)
    url = "https://elsewhere.example/webhooks/acme"
    moved = await set_up(first.config.model_copy(update={"webhook_url": url}))
    [endpoint] = endpoints(simulator)
    assert (endpoint["url"], endpoint["id"]) == (url, moved.config.webhook_endpoint_id)
    assert moved.logs[-1] == (
        f"removed webhook endpoint {first.config.webhook_endpoint_id} for {URL}"
    )


async def test_without_its_secret_a_named_endpoint_is_not_ours(
    simulator: StripeSimulator, config: StripeConfig
) -> None:
    # As in the configuration of another pipeline that began as a copy.
    first = await set_up(config)
    copied = {"webhook_url": "https://example.com/webhooks/copy", "webhook_secret": None}
    copy = await set_up(first.config.model_copy(update=copied))
    assert len(endpoints(simulator)) == 2
    assert copy.config.webhook_endpoint_id != first.config.webhook_endpoint_id
    assert await tear_down(first.config.model_copy(update=copied | {"webhook_url": None})) == []


async def test_without_a_url_the_endpoint_is_removed(
    simulator: StripeSimulator, config: StripeConfig
) -> None:
    first = await set_up(config)
    without = await set_up(first.config.model_copy(update={"webhook_url": None}))
    assert (endpoints(simulator), without.config.webhook_endpoint_id) == ([], None)
    before = len(simulator.requests)
    assert not (await set_up(without.config)).is_stored
    # Only the account is requested.
    assert len(simulator.requests) == before + 1


async def test_streams_without_events_need_no_endpoint(
    simulator: StripeSimulator, config: StripeConfig
) -> None:
    first = await set_up(config)
    without = await set_up(first.config, ["exchange_rates"])
    assert (endpoints(simulator), without.config.webhook_endpoint_id) == ([], None)
    assert without.logs[0] == (
        "made no webhook endpoint: Stripe has no events about the selected streams"
    )


async def test_events_of_a_connected_account_arrive_through_its_platform(
    simulator: StripeSimulator,
) -> None:
    simulator.connect("acct_connected")
    async with WebhookReceiver() as receiver:
        config = config_for(simulator, stripe_account="acct_connected", webhook_url=receiver.url)
        done = await set_up(config)
        [receiver.secret] = done.config.webhook_secrets
        simulator.create("customers")
        simulator.create("customers", account="acct_connected")
        await simulator.deliveries.settled()
        assert [event["account"] for event in receiver.events] == ["acct_connected"]
    [endpoint] = endpoints(simulator)
    assert endpoint["metadata"]["pipesync_account"] == "acct_connected"
    assert not (await set_up(done.config)).is_stored
    assert len(await tear_down(done.config)) == 1
    assert endpoints(simulator) == []


def fill(simulator: StripeSimulator, count: int) -> None:
    for number in range(count):
        simulator.register_webhook(f"https://example.com/{number}")


async def test_a_full_account_gets_an_error_with_the_remedy(
    simulator: StripeSimulator, config: StripeConfig
) -> None:
    other = await set_up(config_for(simulator, webhook_url="https://example.com/webhooks/other"))
    fill(simulator, 15)
    with pytest.raises(ConnectorError) as caught:
        await set_up(config)
    assert "the most webhook endpoints that Stripe allows (16)" in caught.value.message
    assert "Remove an unused one" in caught.value.message
    assert f"{other.config.webhook_endpoint_id} for https://example.com" in caught.value.message
    assert len(endpoints(simulator)) == 16


async def test_a_useless_endpoint_is_replaced_in_a_full_account(
    simulator: StripeSimulator, config: StripeConfig
) -> None:
    await set_up(config)
    fill(simulator, 15)
    again = await set_up(config)
    assert again.config.webhook_endpoint_id in {one["id"] for one in endpoints(simulator)}
    assert len(endpoints(simulator)) == 16


async def test_a_working_endpoint_is_kept_in_a_full_account(
    simulator: StripeSimulator, config: StripeConfig
) -> None:
    first = await set_up(config)
    fill(simulator, 15)
    with pytest.raises(ConnectorError, match="run setup again"):
        await set_up(first.config.model_copy(update={"api_version": "2025-03-31.basil"}))
    assert first.config.webhook_endpoint_id in {one["id"] for one in endpoints(simulator)}


@pytest.mark.parametrize("may_read", [("*",), ("/v1/account",)])
async def test_a_key_that_may_not_write_endpoints_gets_the_missing_permission(
    simulator: StripeSimulator, may_read: Sequence[str]
) -> None:
    simulator.restrict_key(RESTRICTED, may_read=may_read)
    config = config_for(simulator, api_key=RESTRICTED, webhook_url=URL)
    simulator.objects("webhook_endpoints").put(_left_by_another_key(simulator))
    for act in (set_up, tear_down):
        with pytest.raises(ConnectorError) as caught:
            await act(config)
        assert "permission to write webhook endpoints (webhook_write)" in caught.value.message
        assert f"the endpoint for {URL}" in caught.value.message
        assert not isinstance(caught.value, ConnectionFailed)
        assert RESTRICTED not in caught.value.message


def _left_by_another_key(simulator: StripeSimulator) -> dict[str, Any]:
    return {
        "id": "we_left",
        "object": "webhook_endpoint",
        "api_version": api_version(),
        "created": simulator.account_created,
        "enabled_events": ["*"],
        "metadata": {"managed_by": "pipesync", "pipesync_account": simulator.account_id},
        "status": "enabled",
        "url": URL,
    }


async def test_a_url_that_stripe_refuses_is_named(
    simulator: StripeSimulator, config: StripeConfig
) -> None:
    refusal = errors.invalid_request(400, "Invalid URL: not public.", param="url")
    simulator.faults.add(faults.refuse(refusal), path=PATH, method="POST")
    with pytest.raises(ConnectorError, match=r"webhook_url \(https://.*\): Invalid URL"):
        await set_up(config)


async def test_teardown_is_safe_to_repeat_and_setup_starts_over(
    simulator: StripeSimulator, config: StripeConfig
) -> None:
    first = await set_up(config)
    assert len(await tear_down(first.config)) == 1
    assert await tear_down(first.config) == []
    again = await set_up(first.config)
    [endpoint] = endpoints(simulator)
    assert again.config.webhook_endpoint_id == endpoint["id"]


async def test_a_plan_names_the_endpoint_that_teardown_removes_and_leaves_it(
    simulator: StripeSimulator, config: StripeConfig
) -> None:
    async def planned(of: StripeConfig) -> list[Message]:
        return [message async for message in StripeSource(QUICK).plan_teardown(of, [])]

    first = await set_up(config)
    before = writes(simulator)
    [message] = await planned(first.config)
    removal = message.planned_removal
    assert removal.kind == PlannedRemoval.KIND_WEBHOOK_ENDPOINT
    assert (removal.name, removal.note) == (
        first.config.webhook_endpoint_id,
        f"for {config.webhook_url}",
    )
    assert writes(simulator) == before
    await tear_down(first.config)
    assert await planned(first.config) == []
    assert await planned(config.model_copy(update={"webhook_url": None})) == []


async def test_an_endpoint_removed_concurrently_counts_as_removed(
    simulator: StripeSimulator, config: StripeConfig
) -> None:
    first = await set_up(config)
    gone = errors.resource_missing(404, "webhook_endpoint", "we", "webhook_endpoint")
    simulator.faults.add(faults.refuse(gone), method="DELETE")
    assert len(await tear_down(first.config)) == 1


async def test_no_secret_is_logged(simulator: StripeSimulator, config: StripeConfig) -> None:
    simulator.faults.add(faults.truncated_body(), path=PATH, method="POST")
    with structlog.testing.capture_logs() as captured:
        done = await set_up(config)
        done = await set_up(done.config.model_copy(update={"api_version": "2025-03-31.basil"}))
        logs = done.logs + await tear_down(done.config)
    said = f"{captured} {logs} {done.config!r} {done.config}"
    for secret in (*done.config.webhook_secrets, simulator.api_key):
        assert secret not in said


async def test_an_empty_page_of_endpoints_hides_none_of_ours() -> None:
    async with StripeSimulator() as simulator:
        done = await set_up(config_for(simulator, webhook_url=URL))
        simulator.faults.add(empty_page(), path=PATH, method="GET", times=2)
        again = await set_up(done.config)
        assert again.config.webhook_endpoint_id == done.config.webhook_endpoint_id
        simulator.faults.add(empty_page(), path=PATH, method="GET", times=None)
        with pytest.raises(ConnectorError, match=rf"GET {PATH}\?limit=100 .*request_id: req_"):
            await set_up(done.config)


@pytest.mark.parametrize("field", ["id", "secret"])
async def test_an_endpoint_with_unstorable_fields_is_refused(
    simulator: StripeSimulator, config: StripeConfig, field: str
) -> None:
    async def odd(_request: web.Request, _serve: faults.Serve) -> web.StreamResponse:
        return web.json_response({"id": "we_1", "secret": "whsec_planted", field: "\ud800"})

    simulator.faults.add(odd, path=PATH, method="POST")
    with pytest.raises(ConnectorError, match="was not answered with an endpoint and its secret"):
        await set_up(config)


async def test_an_endpoint_of_ours_with_an_unstorable_name_is_refused(
    simulator: StripeSimulator, config: StripeConfig
) -> None:
    await set_up(config)
    simulator.faults.add(faults.with_text(b'"we_', b'"we_\\ud800'), path=PATH, method="GET")
    with pytest.raises(RequestFailed, match="was not answered with a list of webhook endpoints"):
        await set_up(config)
