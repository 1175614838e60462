"""Scope of a refused request: the key, a type of objects, one object, or Stripe itself."""

from collections.abc import AsyncIterator

import pytest

from engine_server.connectors.stripe.api.errors import FailureScope, RequestFailed
from engine_server.connectors.stripe.api.stripe_api import StripeApi
from engine_server.errors import ConnectionFailed, ConnectorError
from tests.engine_server.connectors.stripe.events.failing import OF_AN_OBJECT, OF_STRIPE
from tests.engine_server.connectors.stripe.reading import QUICK, config_for
from tests.engine_server.connectors.stripe.wordings import UNAVAILABLE, Wording
from tests.engine_server.connectors.stripe.wordings_of_errors import KEY_REFUSED
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.errors import Refusal
from tests.stripe_simulator.faults import Fault
from tests.stripe_simulator.simulator import StripeSimulator

# The code says that an account is refused, which may not be the one being read.
OF_KEY_ALONE = [each for each in KEY_REFUSED if ("code", "account_invalid") not in each.fields]


async def scope_of(
    simulator: StripeSimulator, fault: Fault, path: str, endpoint: str, **config: object
) -> FailureScope:
    """Return the scope of a request that meets a fault."""
    simulator.faults.add(fault, path=path, times=None)
    async with StripeApi(QUICK).client(config_for(simulator, **config)) as client:
        # Shows that the API is reachable.
        await client.get("/v1/products", {})
        with pytest.raises(ConnectorError) as caught:
            await client.get(path, {}, endpoint=endpoint)
    error = caught.value
    cause = error.__cause__ if isinstance(error, ConnectionFailed) else error
    assert isinstance(cause, RequestFailed)
    return cause.scope


async def of_object(simulator: StripeSimulator, refusal: Refusal) -> FailureScope:
    return await scope_of(
        simulator, faults.refuse(refusal), "/v1/customers/cus_1", "/v1/customers/:id"
    )


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator() as simulator:
        yield simulator


@pytest.mark.parametrize("refusal", OF_AN_OBJECT.values(), ids=OF_AN_OBJECT)
async def test_a_refusal_of_one_object_has_the_scope_of_the_object(
    simulator: StripeSimulator, refusal: Refusal
) -> None:
    assert await of_object(simulator, refusal) is FailureScope.OBJECT


def named(wording: Wording) -> str:
    return f"{wording.status} {wording.message[:30]}"


@pytest.mark.parametrize("wording", UNAVAILABLE, ids=named)
@pytest.mark.parametrize("is_list", [True, False])
async def test_a_missing_permission_has_the_scope_of_the_stream(
    simulator: StripeSimulator, wording: Wording, is_list: bool
) -> None:
    path = "/v1/customers" if is_list else "/v1/customers/cus_1"
    endpoint = "/v1/customers" if is_list else "/v1/customers/:id"
    fault = faults.refuse(wording.refusal)
    # A problem of one object does not concern its type.
    fields = dict(wording.fields)
    is_of_list = RequestFailed(
        "",
        status=wording.status,
        stripe_message=wording.message,
        stripe_code=str(fields.get("code", "")),
        param=str(fields.get("param", "")),
    ).lacks_parameter
    expected = FailureScope.OBJECT if is_of_list and not is_list else FailureScope.STREAM
    assert await scope_of(simulator, fault, path, endpoint) is expected


@pytest.mark.parametrize("wording", OF_KEY_ALONE, ids=named)
@pytest.mark.parametrize("is_list", [True, False])
async def test_a_refusal_of_every_request_has_the_scope_of_the_key(
    simulator: StripeSimulator, wording: Wording, is_list: bool
) -> None:
    path = "/v1/customers" if is_list else "/v1/customers/cus_1"
    endpoint = "/v1/customers" if is_list else "/v1/customers/:id"
    fault = faults.refuse(wording.refusal)
    assert await scope_of(simulator, fault, path, endpoint) is FailureScope.KEY


@pytest.mark.parametrize("fault", OF_STRIPE.values(), ids=OF_STRIPE)
async def test_a_transient_failure_has_the_scope_of_stripe(
    simulator: StripeSimulator, fault: Fault
) -> None:
    scope = await scope_of(simulator, fault, "/v1/customers/cus_1", "/v1/customers/:id")
    assert scope is FailureScope.STRIPE


@pytest.mark.parametrize("status", [400, 404, 405, 413, 414, 431])
async def test_a_path_that_a_proxy_rejects_has_the_scope_of_the_object(
    simulator: StripeSimulator, status: int
) -> None:
    for fault in (faults.html(status), faults.json_error(status, {"message": "no", "code": 4})):
        scope = await scope_of(simulator, fault, "/v1/customers/cus_1", "/v1/customers/:id")
        assert scope is FailureScope.OBJECT
        # For a list, the network to Stripe may be at fault.
        assert await scope_of(simulator, fault, "/v1/prices", "/v1/prices") is FailureScope.STRIPE


@pytest.mark.parametrize(
    ("path", "endpoint", "config", "scope"),
    [
        ("/v1/account", "/v1/account", {}, FailureScope.KEY),
        ("/v1/customers", "/v1/customers", {}, FailureScope.KEY),
        ("/v1/accounts/acct_1", "/v1/accounts/:id", {}, FailureScope.OBJECT),
        ("/v1/accounts/acct_1", "/v1/accounts/:id", {"account_id": "acct_1"}, FailureScope.KEY),
        ("/v1/accounts/acct_1/persons", "/v1/accounts/:id/persons", {}, FailureScope.OBJECT),
        ("/v1/charges/ch_1", "/v1/charges/:id", {}, FailureScope.OBJECT),
        (
            "/v1/charges/ch_1",
            "/v1/charges/:id",
            {"stripe_account": "acct_1", "account_id": None},
            FailureScope.KEY,
        ),
        (
            "/v1/charges/ch_1",
            "/v1/charges/:id",
            {"stripe_account": "acct_2", "account_id": None},
            FailureScope.OBJECT,
        ),
    ],
)
async def test_a_refused_account_is_the_one_that_is_read_or_that_of_an_object(
    simulator: StripeSimulator,
    path: str,
    endpoint: str,
    config: dict[str, object],
    scope: FailureScope,
) -> None:
    for account in ("acct_1", "acct_2"):
        simulator.connect(account)
    fault = faults.refuse(errors.account_invalid("sk_test_simulator", "acct_1"))
    assert await scope_of(simulator, fault, path, endpoint, **config) is scope


async def test_only_a_refusal_of_the_account_itself_shows_that_it_was_disconnected(
    simulator: StripeSimulator,
) -> None:
    def refused(status: int, words: str, code: str = "account_invalid") -> RequestFailed:
        return RequestFailed(
            words, status=status, stripe_message=words, stripe_code=code, about_object=True
        )

    named = "The key does not have access to account 'acct_1' (or that account does not exist)."
    assert refused(403, named).shows_disconnected("acct_1")
    assert refused(403, named, code="").shows_disconnected("acct_1")
    assert refused(403, "Something else.").shows_disconnected("acct_1")
    assert not refused(403, named).shows_disconnected("acct_2")
    assert not refused(400, named).shows_disconnected("acct_1")
    assert not refused(403, "Permission denied.", code="").shows_disconnected("acct_1")


@pytest.mark.parametrize(
    "message",
    [
        "`customer` is required.",
        "One of customer or customer_account is required.",
        "Exactly one of customer and customer_account must be set.",
        "Required param customer is missing.",
        "The parameter `customer` is missing.",
        "Missing required field: customer",
        "This list requires the customer parameter.",
        "Listing requires one of: customer, account",
    ],
)
def test_a_missing_parameter_is_recognized_in_other_wordings(message: str) -> None:
    """Made up, in the usual wordings of APIs."""
    sent = ["limit", "created[gte]"]
    error = RequestFailed("", status=400, stripe_message=message, sent=sent)
    assert error.scope is FailureScope.STREAM
    assert error.is_unlistable


@pytest.mark.parametrize(
    "message",
    [
        "You must provide a valid API version.",
        "Invalid Stripe API version: 2099-01-01. You must provide a version such as 2020-08-27.",
        "The Stripe-Version header is required.",
        "You must provide your API key in the Authorization header.",
        "created is required to be an integer.",
        "The filter limit is not an integer, and none of it is missing.",
        "x" * 1000 + " customer is required.",
    ],
)
def test_messages_about_the_request_or_sent_parameters_skip_no_stream(message: str) -> None:
    sent = ["limit", "created[gte]"]
    error = RequestFailed("", status=400, stripe_message=message, sent=sent)
    assert error.scope is FailureScope.OBJECT
    assert not error.is_unlistable
