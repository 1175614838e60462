"""What a check tells of a key: which account it reads, and which of the selected streams."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from aiohttp import web

from engine_server.connectors.stripe.catalog import load_resources
from engine_server.connectors.stripe.retry import RetryPolicy
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


async def test_a_key_that_may_read_all_is_tried_once_for_each_stream(
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


async def test_streams_that_cannot_be_read_are_named_with_the_words_of_stripe(
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


async def test_what_lies_inside_another_streams_objects_is_tried_through_their_list(
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


async def test_a_list_that_only_works_with_a_parameter_is_told_in_the_words_of_stripe(
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
async def test_a_list_that_fails_otherwise_is_named_with_all_that_is_known(
    simulator: StripeSimulator, refusal: errors.Refusal, told: str
) -> None:
    simulator.faults.add(faults.refuse(refusal), path="/v1/customers", times=None)
    status = await check(simulator, ["customers", "products"])
    assert status.status == ConnectionStatus.STATUS_SUCCEEDED
    assert told in unreadable(status)["customers"]
    assert "request_id: req_" in unreadable(status)["customers"]


async def test_a_fault_that_passes_is_not_told(simulator: StripeSimulator) -> None:
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


@pytest.mark.parametrize("account_id", [None, "acct_simulator"])
async def test_a_bad_key_is_refused_once_whatever_is_selected(
    simulator: StripeSimulator, account_id: str | None
) -> None:
    names = list(load_resources())
    status = await check(simulator, names, api_key="sk_test_bad", account_id=account_id)
    assert status.status == ConnectionStatus.STATUS_FAILED
    assert "Invalid API Key provided" in status.message
    assert "request_id: req_" in status.message
    assert len(simulator.requests) == 1


async def test_a_key_that_expires_while_it_is_tried_fails_the_check_and_ends_it(
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


async def test_an_api_out_of_reach_is_named(
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
    # The rate is kept, and nothing else takes time.
    assert 0.9 * len(lists) / rate < elapsed < 2 * len(lists) / rate + 1


@pytest.mark.parametrize("account_id", [None, "acct_simulator"])
async def test_a_restricted_key_that_may_not_see_its_account_is_good_as_stripe_names_it(
    simulator: StripeSimulator, account_id: str | None
) -> None:
    simulator.restrict_key(RESTRICTED, may_read=["/v1/customers"])
    status = await check(simulator, ["customers"], api_key=RESTRICTED, account_id=account_id)
    assert status.status == ConnectionStatus.STATUS_SUCCEEDED
    assert status.message.startswith("reached account acct_simulator; ")


async def test_a_key_whose_account_stripe_does_not_name_is_good_once_that_is_configured(
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
async def test_an_account_id_that_is_not_the_keys_is_found_out(
    simulator: StripeSimulator, may_see_its_account: bool
) -> None:
    simulator.restrict_key(RESTRICTED, may_read=["/v1/*"] if may_see_its_account else [])
    status = await check(simulator, ["customers"], api_key=RESTRICTED, account_id="acct_another")
    assert status.status == ConnectionStatus.STATUS_FAILED
    assert "account_id is acct_another, but api_key reads account acct_simulator" in status.message
    assert len(simulator.requests) == 1


@pytest.mark.parametrize("account_id", [None, "acct_simulator"])
async def test_a_connected_account_is_confirmed_whatever_the_keys_own_is(
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


async def test_an_api_that_knows_of_no_connected_accounts_is_found_out(
    simulator: StripeSimulator,
) -> None:
    simulator.connect("acct_connected")

    async def of_its_own(_request: web.Request, _serve: faults.Serve) -> web.StreamResponse:
        return web.json_response({"id": simulator.account_id})

    simulator.faults.add(of_its_own, path="/v1/account")
    status = await check(simulator, stripe_account="acct_connected")
    assert status.status == ConnectionStatus.STATUS_FAILED
    assert "stripe_account is acct_connected, but api_key reads" in status.message


async def test_a_fake_without_an_account_to_show_contradicts_nothing(
    simulator: StripeSimulator,
) -> None:
    not_found = errors.invalid_request(404, "no such page")
    simulator.faults.add(faults.refuse(not_found), path="/v1/account", times=None)
    assert (await check(simulator, ["customers"])).status == ConnectionStatus.STATUS_SUCCEEDED
    status = await check(simulator, ["customers"], account_id=None)
    assert status.status == ConnectionStatus.STATUS_FAILED
    assert "account_id can be configured instead" in status.message


@pytest.mark.parametrize("may_read_events", [True, False])
async def test_a_key_that_may_not_read_the_events_that_are_to_be_polled_fails(
    simulator: StripeSimulator, may_read_events: bool
) -> None:
    allowed = ["/v1/account", "/v1/customers", *(["/v1/events"] if may_read_events else [])]
    simulator.restrict_key(RESTRICTED, may_read=allowed)
    status = await check(simulator, ["customers"], api_key=RESTRICTED, poll_events=True)
    assert (status.status == ConnectionStatus.STATUS_SUCCEEDED) == may_read_events
    assert ("(Events: Read); without it, turn poll_events off" in status.message) != may_read_events
    assert RESTRICTED not in status.message
    # Whoever does not poll needs no such permission.
    status = await check(simulator, ["customers"], api_key=RESTRICTED)
    assert status.status == ConnectionStatus.STATUS_SUCCEEDED


@pytest.mark.parametrize("skew", [15.0, -3_600.0])
async def test_a_clock_that_is_off_is_told_with_its_skew(
    simulator: StripeSimulator, skew: float
) -> None:
    simulator.clock.skew = -skew
    status = await check(simulator, ["customers"])
    assert status.status == ConnectionStatus.STATUS_SUCCEEDED
    assert abs(status.clock_skew.ToMilliseconds() / 1_000 - skew) < 1.5
    [notice] = status.notices
    assert ("ahead of" if skew > 0 else "behind") in notice


async def test_a_key_that_is_refused_tells_of_the_clock_too(simulator: StripeSimulator) -> None:
    simulator.clock.skew = 60
    status = await check(simulator, ["customers"], api_key="sk_test_unknown")
    assert status.status == ConnectionStatus.STATUS_FAILED
    assert -61.5 < status.clock_skew.ToMilliseconds() / 1_000 < -58.5
