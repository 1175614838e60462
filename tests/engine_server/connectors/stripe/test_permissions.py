"""Streams that the key or the account may not read."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from engine_server.connectors.stripe.catalog.streams import stream_name
from engine_server.errors import ConnectionFailed
from tests.engine_server.connectors.stripe.accounts import END
from tests.engine_server.connectors.stripe.reading import (
    Reading,
    config_for,
    read,
    selected,
)
from tests.engine_server.connectors.stripe.wordings import UNAVAILABLE, Wording
from tests.engine_server.connectors.stripe.wordings_of_errors import (
    KEY_REFUSED,
    MISTAKES,
    PLATFORM_REFUSED,
)
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.errors import Refusal
from tests.stripe_simulator.odd_pages import require
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

RESTRICTED = "rk_test_restricted"
PLAN = SeedPlan(counts={"customers": 650, "products": 30})


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(PLAN) as simulator:
        yield simulator


def named(wording: Wording) -> str:
    return f"{wording.status} {wording.message[:40]}"


async def read_amid(simulator: StripeSimulator, wording: Wording, **config: str) -> Reading:
    """Read the stream whose list responds like this, and the products."""
    simulator.faults.add(faults.refuse(wording.refusal), path=wording.path, times=None)
    streams = [selected(stream_name(wording.path)), selected("products")]
    return await read(config_for(simulator, **config), streams)


@pytest.mark.parametrize("wording", UNAVAILABLE, ids=named)
async def test_unreadable_streams_are_skipped_with_stripes_message(
    simulator: StripeSimulator, wording: Wording
) -> None:
    reading = await read_amid(simulator, wording)
    assert reading.turns(stream_name(wording.path)) == ["started", "skipped"]
    assert reading.turns("products") == ["started", "completed"]
    [skipped] = [status.skipped for status in reading.statuses if status.HasField("skipped")]
    assert wording.message in skipped.reason
    assert "request_id: req_" in skipped.reason
    assert len(simulator.requests.of(wording.path)) == 1


@pytest.mark.parametrize("wording", MISTAKES, ids=named)
async def test_a_wrong_request_is_an_error_and_never_skipped(
    simulator: StripeSimulator, wording: Wording
) -> None:
    reading = await read_amid(simulator, wording)
    [errored] = [status.errored for status in reading.statuses if status.HasField("errored")]
    assert wording.message in errored.error
    assert not any(status.HasField("skipped") for status in reading.statuses)
    assert reading.turns("products") == ["started", "completed"]


@pytest.mark.parametrize("wording", KEY_REFUSED, ids=named)
async def test_a_key_that_is_refused_fails_the_connection_at_once(
    simulator: StripeSimulator, wording: Wording
) -> None:
    with pytest.raises(ConnectionFailed, match="request_id: req_"):
        await read_amid(simulator, wording)
    assert len(simulator.requests.of(wording.path)) == 1


@pytest.mark.parametrize("wording", PLATFORM_REFUSED, ids=named)
async def test_a_connected_account_that_is_refused_fails_the_connection(
    simulator: StripeSimulator, wording: Wording
) -> None:
    simulator.connect("acct_connected")
    with pytest.raises(ConnectionFailed, match="request_id: req_"):
        await read_amid(simulator, wording, stripe_account="acct_connected")


async def test_a_missing_parameter_is_one_that_was_not_sent(simulator: StripeSimulator) -> None:
    """A parameter that pipesync sends, or a stream that is half read, makes it an error."""
    missing = errors.missing_parameter("created[lt]")
    simulator.faults.add(faults.refuse(missing), path="/v1/products", times=None)
    half_read = await read(config_for(simulator), [selected("customers", lt=END)], stop_after=1)
    simulator.faults.add(require("customer"), path="/v1/customers", times=None)
    streams = [selected("customers", lt=END), selected("products", lt=END)]
    reading = await read(config_for(simulator), streams, state=half_read.state)
    assert reading.turns("products") == ["started", "errored"]
    assert reading.turns("customers") == ["started", "errored"]


async def test_the_code_of_a_v2_error_is_sufficient(simulator: StripeSimulator) -> None:
    words = "Words that were never seen."
    error = {"code": "accounts_v2_access_blocked", "message": words, "user_message": words}
    refusal = Refusal(400, error)
    simulator.faults.add(faults.refuse(refusal), path="/v2/core/accounts", times=None)
    reading = await read(config_for(simulator), [selected("v2_core_accounts")])
    assert reading.turns("v2_core_accounts") == ["started", "skipped"]


async def test_the_403_of_a_proxy_says_nothing_about_the_account(
    simulator: StripeSimulator,
) -> None:
    simulator.faults.add(faults.html(403), path="/v1/customers", times=None)
    reading = await read(config_for(simulator), [selected("customers"), selected("products")])
    assert reading.turns("customers") == ["started", "errored"]
    assert reading.turns("products") == ["started", "completed"]


@pytest.mark.parametrize("base_path", ["/v1", "/v2", "/stripe"])
async def test_a_base_url_with_a_path_is_not_mistaken_for_a_missing_feature(
    simulator: StripeSimulator, base_path: str
) -> None:
    base_url = simulator.base_url + base_path
    reading = await read(config_for(simulator, base_url=base_url), [selected("customers")])
    assert reading.turns("customers") == ["started", "errored"]


async def test_a_restricted_key_reads_its_permitted_streams(simulator: StripeSimulator) -> None:
    simulator.restrict_key(RESTRICTED, may_read=["/v1/products"])
    streams = [selected(name) for name in ("customers", "products", "issuing_cards")]
    reading = await read(config_for(simulator, api_key=RESTRICTED), streams)
    assert reading.ids_of("products") == simulator.objects("products").ids()
    assert reading.turns("customers") == reading.turns("issuing_cards") == ["started", "skipped"]
    assert reading.turns("products") == ["started", "completed"]
    assert set(reading.state.streams) == {"products"}


async def test_a_stream_that_was_skipped_is_read_once_the_key_may(
    simulator: StripeSimulator,
) -> None:
    simulator.restrict_key(RESTRICTED, may_read=["/v1/products"])
    config = config_for(simulator, api_key=RESTRICTED)
    streams = [selected("customers"), selected("products")]
    before = await read(config, streams)
    simulator.restrict_key(RESTRICTED, may_read=["/v1/*"])
    after = await read(config, streams, state=before.state)
    assert after.ids_of("customers") == simulator.objects("customers").ids()


@pytest.mark.parametrize("is_whole", [False, True], ids=["half read", "read in an earlier run"])
async def test_a_revoked_permission_is_an_error_and_keeps_the_records(
    simulator: StripeSimulator, is_whole: bool
) -> None:
    simulator.restrict_key(RESTRICTED, may_read=["/v1/customers"])
    config = config_for(simulator, api_key=RESTRICTED)
    newest = PLAN.created_until
    stop_after = None if is_whole else 3
    before = await read(config, [selected("customers", lt=newest)], stop_after=stop_after)
    simulator.restrict_key(RESTRICTED, may_read=[])
    streams = [selected("customers", lt=newest + 60)]
    refused = await read(config, streams, state=before.state)
    assert refused.turns("customers") == ["started", "errored"]
    assert refused.state == before.state
    simulator.restrict_key(RESTRICTED, may_read=["/v1/customers"])
    after = await read(config, streams, state=refused.state)
    assert after.turns("customers") == ["started", "completed"]
    assert before.ids_of("customers") | after.ids_of("customers") == (
        simulator.objects("customers").ids()
    )


async def test_a_permission_revoked_during_a_read_is_an_error(
    simulator: StripeSimulator,
) -> None:
    simulator.restrict_key(RESTRICTED, may_read=["/v1/*"])
    served = 0

    async def until_the_third_page(request: web.Request, serve: faults.Serve) -> web.StreamResponse:
        nonlocal served
        served += 1
        if served == 3:
            simulator.restrict_key(RESTRICTED, may_read=["/v1/products"])
        return await serve(request)

    simulator.faults.add(until_the_third_page, path="/v1/customers", times=None)
    reading = await read(
        config_for(simulator, api_key=RESTRICTED), [selected("customers"), selected("products")]
    )
    assert reading.turns("customers") == ["started", "errored"]
    assert reading.turns("products") == ["started", "completed"]
    assert 0 < len(reading.ids_of("customers")) < PLAN.counts["customers"]
