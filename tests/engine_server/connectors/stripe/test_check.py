"""Results of a check: the account of a key, and its access to the selected streams."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from aiohttp import web

from engine_server.connectors.stripe.api.retry import RetryPolicy
from engine_server.connectors.stripe.catalog.streams import load_resources
from engine_server.connectors.stripe.source import StripeSource
from pipesync.v1.progress_pb2 import ConnectionStatus
from tests.engine_server.connectors.stripe.reading import QUICK, config_for, selected
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.odd_pages import require
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

RESTRICTED = "rk_test_restricted"
NO_ISSUING = errors.invalid_request(
    400,
    "Your account is not set up to use Issuing. Please visit "
    "https://dashboard.stripe.com/issuing/overview to get started.",
)


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(SeedPlan(counts={"customers": 3, "subscriptions": 40})) as simulator:
        yield simulator


async def check(
    simulator: StripeSimulator,
    streams: Sequence[str] = (),
    *,
    policy: RetryPolicy = QUICK,
    **config: object,
) -> ConnectionStatus:
    source = StripeSource(policy)
    names = [selected(name) for name in streams]
    [message] = [m async for m in source.check(config_for(simulator, **config), names)]
    return message.connection_status


def unreadable(status: ConnectionStatus) -> dict[str, str]:
    return {stream.stream: stream.reason for stream in status.unreadable_streams}


async def test_a_key_with_full_access_is_tried_once_for_each_stream(
    simulator: StripeSimulator,
) -> None:
    status = await check(simulator, ["customers", "subscriptions", "v2_core_accounts"])
    assert status == ConnectionStatus(
        status=ConnectionStatus.STATUS_SUCCEEDED,
        message="reached account acct_simulator; may read all selected streams (3)",
    )
    account, *lists = simulator.requests
    assert account.path == "/v1/account"
    assert {request.path: dict(request.query) for request in lists} == {
        "/v1/customers": {"limit": "1"},
        "/v1/subscriptions": {"limit": "1", "status": "all"},
        "/v2/core/accounts": {"limit": "1"},
    }


async def test_unreadable_streams_are_named_with_stripes_message(
    simulator: StripeSimulator,
) -> None:
    simulator.restrict_key(RESTRICTED, may_read=["/v1/account", "/v1/customers", "/v1/issuing/*"])
    simulator.faults.add(faults.refuse(NO_ISSUING), path="/v1/issuing/*", times=None)
    status = await check(
        simulator, ["issuing_cards", "customers", "credit_notes"], api_key=RESTRICTED
    )
    assert status.status == ConnectionStatus.STATUS_SUCCEEDED
    assert status.message == "reached account acct_simulator; may read 1 of 3 selected streams"
    reasons = unreadable(status)
    assert list(reasons) == ["issuing_cards", "credit_notes"]
    assert reasons["issuing_cards"] == str(NO_ISSUING)
    assert "Enabling \"Credit Notes Read\" ('credit_note_read')" in reasons["credit_notes"]
    assert RESTRICTED not in str(status)


async def test_a_nested_list_is_tried_through_the_list_of_its_parents(
    simulator: StripeSimulator,
) -> None:
    both = ["subscription_items", "customers", "subscriptions"]
    simulator.restrict_key(RESTRICTED, may_read=["/v1/account", "/v1/customers"])
    status = await check(simulator, both, api_key=RESTRICTED)
    assert list(unreadable(status)) == ["subscription_items", "subscriptions"]
    assert len(simulator.requests.of("/v1/subscriptions")) == 1
    assert (await check(simulator, both)).message.endswith("may read all selected streams (3)")


async def test_a_key_that_may_read_no_selected_stream_fails(simulator: StripeSimulator) -> None:
    simulator.restrict_key(RESTRICTED, may_read=["/v1/account"])
    status = await check(simulator, ["customers", "invoices"], api_key=RESTRICTED)
    assert status.status == ConnectionStatus.STATUS_FAILED
    assert status.message.startswith(
        "reached account acct_simulator, but may read no selected stream: customers: Permission "
        "denied."
    )
    assert list(unreadable(status)) == ["customers", "invoices"]


async def test_a_list_that_requires_a_parameter_is_reported_with_stripes_message(
    simulator: StripeSimulator,
) -> None:
    path = "/v1/billing/credit_balance_transactions"
    simulator.faults.add(require("customer", "customer_account"), path=path, times=None)
    status = await check(simulator, ["customers", "billing_credit_balance_transactions"])
    assert unreadable(status) == {
        "billing_credit_balance_transactions": "Must provide customer or customer_account."
    }
    assert status.status == ConnectionStatus.STATUS_SUCCEEDED


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (errors.server_error(500), "answered 500 to GET /v1/customers: An unknown error occurred"),
        (errors.rate_limited("endpoint-rate"), "rate_limit_reason: endpoint-rate"),
        (errors.unknown_parameter("limit"), "answered 400 to GET /v1/customers: Received unknown"),
    ],
)
async def test_a_list_that_fails_otherwise_is_named_with_the_whole_error(
    simulator: StripeSimulator, refusal: errors.Refusal, told: str
) -> None:
    simulator.faults.add(faults.refuse(refusal), path="/v1/customers", times=None)
    status = await check(simulator, ["customers", "products"])
    assert status.status == ConnectionStatus.STATUS_SUCCEEDED
    assert told in unreadable(status)["customers"]
    assert "request_id: req_" in unreadable(status)["customers"]


async def test_a_transient_fault_is_not_reported(simulator: StripeSimulator) -> None:
    simulator.faults.add(faults.refuse(errors.server_error(503)), path="/v1/customers")
    simulator.faults.add(faults.refuse(errors.rate_limited("global-rate")), path="/v1/products")
    status = await check(simulator, ["customers", "products"])
    assert status.message.endswith("may read all selected streams (2)")


async def test_a_failing_api_is_given_less_time_than_in_a_sync(simulator: StripeSimulator) -> None:
    simulator.faults.add(faults.refuse(errors.server_error(500)), times=None)
    status = await check(simulator, ["customers"])
    assert status.status == ConnectionStatus.STATUS_FAILED
    assert "answered 500 to GET /v1/account" in status.message
    assert len(simulator.requests) == 3 < QUICK.attempts


async def test_a_check_waits_shorter_than_a_retry_after_of_an_hour(
    simulator: StripeSimulator,
) -> None:
    refusal = errors.Refusal(503, {"message": "down for maintenance"}, {"Retry-After": "3600"})
    simulator.faults.add(faults.refuse(refusal), times=None)
    # A sync would wait for more than a minute.
    async with asyncio.timeout(30):
        status = await check(simulator, ["customers"], policy=RetryPolicy(attempts=2))
    assert "answered 503 to GET /v1/account" in status.message
    assert len(simulator.requests) == 2


@pytest.mark.parametrize("account_id", [None, "acct_simulator"])
async def test_a_bad_key_is_refused_once_for_any_selection(
    simulator: StripeSimulator, account_id: str | None
) -> None:
    names = list(load_resources())
    status = await check(simulator, names, api_key="sk_test_bad", account_id=account_id)
    assert status.status == ConnectionStatus.STATUS_FAILED
    assert "Invalid API Key provided" in status.message
    assert "request_id: req_" in status.message
    assert len(simulator.requests) == 1


async def test_a_key_that_expires_during_the_check_fails_it(
    simulator: StripeSimulator,
) -> None:
    simulator.faults.add(
        faults.refuse(errors.expired_key(simulator.api_key)), path="/v1/invoices", times=None
    )
    never = asyncio.Event()
    simulator.faults.add(faults.stall(never), path="/v1/customers")
    status = await check(simulator, ["customers", "invoices"])
    assert status.status == ConnectionStatus.STATUS_FAILED
    assert "Expired API Key provided" in status.message
    assert not status.unreadable_streams


async def test_an_unreachable_api_is_named(
    simulator: StripeSimulator, unused_tcp_port: int
) -> None:
    base_url = f"http://127.0.0.1:{unused_tcp_port}"
    status = await check(simulator, ["customers"], base_url=base_url)
    assert status.status == ConnectionStatus.STATUS_FAILED
    assert status.message.startswith(f"cannot reach {base_url}")


async def test_every_stream_is_tried_as_fast_as_the_rate_allows(
    simulator: StripeSimulator,
) -> None:
    rate = 60
    names = list(load_resources())
    lists = {resource.path for resource in load_resources().values() if resource.has_history}
    started = time.monotonic()
    status = await check(simulator, names, rate_limit=rate)
    elapsed = time.monotonic() - started
    assert status.message.endswith(f"may read all selected streams ({len(names)})")
    assert len(simulator.requests) == 1 + len(lists)
    # Only the rate limit takes time.
    assert 0.9 * len(lists) / rate < elapsed < 2 * len(lists) / rate + 1


@pytest.mark.parametrize("account_id", [None, "acct_simulator"])
async def test_a_restricted_key_succeeds_as_stripe_names_its_account(
    simulator: StripeSimulator, account_id: str | None
) -> None:
    simulator.restrict_key(RESTRICTED, may_read=["/v1/customers"])
    status = await check(simulator, ["customers"], api_key=RESTRICTED, account_id=account_id)
    assert status.status == ConnectionStatus.STATUS_SUCCEEDED
    assert status.message.startswith("reached account acct_simulator; ")


async def test_a_key_with_an_unnamed_account_succeeds_once_it_is_configured(
    simulator: StripeSimulator,
) -> None:
    refusal = errors.permission_denied("You may not read this account.")
    simulator.faults.add(faults.refuse(refusal), path="/v1/account", times=None)
    status = await check(simulator, ["customers"])
    assert status.status == ConnectionStatus.STATUS_SUCCEEDED
    status = await check(simulator, ["customers"], account_id=None)
    assert status.status == ConnectionStatus.STATUS_FAILED
    assert "You may not read this account." in status.message
    assert status.message.endswith("account_id can be configured instead")


@pytest.mark.parametrize("may_see_its_account", [True, False])
async def test_the_account_id_of_another_key_fails_the_check(
    simulator: StripeSimulator, may_see_its_account: bool
) -> None:
    simulator.restrict_key(RESTRICTED, may_read=["/v1/*"] if may_see_its_account else [])
    status = await check(simulator, ["customers"], api_key=RESTRICTED, account_id="acct_another")
    assert status.status == ConnectionStatus.STATUS_FAILED
    assert "account_id is acct_another, but api_key reads account acct_simulator" in status.message
    assert len(simulator.requests) == 1


@pytest.mark.parametrize("account_id", [None, "acct_simulator"])
async def test_a_connected_account_is_confirmed_regardless_of_the_keys_own(
    simulator: StripeSimulator, account_id: str | None
) -> None:
    simulator.connect("acct_connected", SeedPlan(counts={"customers": 1}))
    status = await check(
        simulator, ["customers"], stripe_account="acct_connected", account_id=account_id
    )
    assert status.status == ConnectionStatus.STATUS_SUCCEEDED
    assert status.message.startswith("reached account acct_connected;")
    assert {r.headers["stripe-account"] for r in simulator.requests} == {"acct_connected"}


@pytest.mark.parametrize("is_platform", [True, False])
async def test_an_account_that_is_not_connected_fails_the_check(
    simulator: StripeSimulator, is_platform: bool
) -> None:
    if is_platform:
        simulator.connect("acct_connected")
    status = await check(simulator, ["customers"], stripe_account="acct_other")
    assert status.status == ConnectionStatus.STATUS_FAILED
    assert ("does not have access to account 'acct_other'" in status.message) == is_platform
    assert ("Only Stripe Connect platforms" in status.message) != is_platform


async def test_an_api_without_connected_accounts_fails_the_check(
    simulator: StripeSimulator,
) -> None:
    simulator.connect("acct_connected")

    async def of_its_own(_request: web.Request, _serve: faults.Serve) -> web.StreamResponse:
        return web.json_response({"id": simulator.account_id})

    simulator.faults.add(of_its_own, path="/v1/account")
    status = await check(simulator, stripe_account="acct_connected")
    assert status.status == ConnectionStatus.STATUS_FAILED
    assert "stripe_account is acct_connected, but api_key reads" in status.message


async def test_a_server_without_an_account_passes_the_check(
    simulator: StripeSimulator,
) -> None:
    not_found = errors.invalid_request(404, "no such page")
    simulator.faults.add(faults.refuse(not_found), path="/v1/account", times=None)
    assert (await check(simulator, ["customers"])).status == ConnectionStatus.STATUS_SUCCEEDED
    status = await check(simulator, ["customers"], account_id=None)
    assert status.status == ConnectionStatus.STATUS_FAILED
    assert "account_id can be configured instead" in status.message


@pytest.mark.parametrize("may_read_events", [True, False])
async def test_a_key_without_access_to_polled_events_fails(
    simulator: StripeSimulator, may_read_events: bool
) -> None:
    allowed = ["/v1/account", "/v1/customers", *(["/v1/events"] if may_read_events else [])]
    simulator.restrict_key(RESTRICTED, may_read=allowed)
    status = await check(simulator, ["customers"], api_key=RESTRICTED, poll_events=True)
    assert (status.status == ConnectionStatus.STATUS_SUCCEEDED) == may_read_events
    assert ("(Events: Read); without it, turn poll_events off" in status.message) != may_read_events
    assert RESTRICTED not in status.message
    # Without polling, no such permission is needed.
    status = await check(simulator, ["customers"], api_key=RESTRICTED)
    assert status.status == ConnectionStatus.STATUS_SUCCEEDED


@pytest.mark.parametrize("skew", [15.0, -3_600.0])
async def test_a_wrong_clock_is_reported_with_its_skew(
    simulator: StripeSimulator, skew: float
) -> None:
    simulator.clock.skew = -skew
    status = await check(simulator, ["customers"])
    assert status.status == ConnectionStatus.STATUS_SUCCEEDED
    assert abs(status.clock_skew.ToMilliseconds() / 1_000 - skew) < 1.5
    [notice] = status.notices
    assert ("ahead of" if skew > 0 else "behind") in notice


async def test_a_refused_key_reports_the_clock_too(simulator: StripeSimulator) -> None:
    simulator.clock.skew = 60
    status = await check(simulator, ["customers"], api_key="sk_test_unknown")
    assert status.status == ConnectionStatus.STATUS_FAILED
    assert -61.5 < status.clock_skew.ToMilliseconds() / 1_000 < -58.5


@pytest.mark.parametrize(
    ("version", "config", "said"),
    [
        ("2020-08-27", {"poll_events": True}, "each costs a look-up of its object"),
        ("2020-08-27", {}, "with poll_events, each event would cost a look-up"),
        (
            "2020-08-27",
            {"poll_events": True, "webhook_url": "https://example.com/x"},
            "webhooks to webhook_url are spared that, as their endpoint is pinned to",
        ),
        ("2099-01-01.endive", {"poll_events": True}, "they need no look-ups"),
    ],
)
async def test_the_check_explains_the_accounts_version_for_polling(
    simulator: StripeSimulator, version: str, config: dict[str, Any], said: str
) -> None:
    simulator.set_default_version(version)
    status = await check(simulator, ["customers"], **config)
    assert status.status == ConnectionStatus.STATUS_SUCCEEDED
    [notice] = status.notices
    assert said in notice
    assert f"default API version {version}" in notice.replace("version is ", "version ")
    messages = StripeSource(QUICK).setup(config_for(simulator, **config), [])
    logs = [message.log.message async for message in messages if message.HasField("log")]
    assert logs[-1] == notice


async def test_without_access_to_the_account_the_version_comes_from_events(
    simulator: StripeSimulator,
) -> None:
    simulator.set_default_version("2020-08-27")
    simulator.restrict_key(RESTRICTED, may_read=["/v1/events", "/v1/customers"])
    config: dict[str, Any] = {"api_key": RESTRICTED, "account_id": simulator.account_id}
    status = await check(simulator, ["customers"], poll_events=True, **config)
    assert "default API version is 2020-08-27" in status.notices[0]
    # No other request asks for events.
    assert not (await check(simulator, ["customers"], **config)).notices
    no_events = errors.permission_missing(RESTRICTED, simulator.account_id, "/v1/events", "read")
    simulator.restrict_key(RESTRICTED, may_read=["/v1/customers"])
    status = await check(simulator, ["customers"], poll_events=True, **config)
    assert str(no_events) in status.message


async def test_an_irrelevant_version_gives_no_notice(simulator: StripeSimulator) -> None:
    assert not (await check(simulator)).notices
    simulator.set_default_version("2020-08-27")
    assert not (await check(simulator, webhook_url="https://example.com/x")).notices
    assert not (await check(simulator, api_version="2020-08-27")).notices


@pytest.mark.parametrize("account_id", [b"acct_\\ud800", b"acct_\\u0000"])
async def test_an_account_with_an_unstorable_id_is_refused(
    simulator: StripeSimulator, account_id: bytes
) -> None:
    body = b'{"id":"' + account_id + b'","object":"account"}'
    simulator.faults.add(faults.other_body(body), path="/v1/account")
    status = await check(simulator, ["customers"], account_id=None)
    assert status.status == ConnectionStatus.STATUS_FAILED
    assert "was not answered with an account" in status.message
