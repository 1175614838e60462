"""How Stripe words its refusals, each with where that was seen.

The paths are those that the words were seen of, or that they fit.
"""

from dataclasses import dataclass
from typing import Any

from tests.stripe_simulator.errors import Refusal

_SYNC_ENGINE = "https://github.com/stripe/sync-engine-fork"
_SKIPPABLE = f"{_SYNC_ENGINE}/blob/main/packages/source-stripe/src/src-list-api.ts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """One answer.

    Attributes:
        path: The list that is answered so.
        status: The HTTP status.
        message: Stripe's words; ids and keys are made up.
        source: The URL of where they were seen.
        fields: More of the error body.
    """

    path: str
    status: int
    message: str
    source: str
    fields: tuple[tuple[str, str], ...] = ()

    @property
    def refusal(self) -> Refusal:
        """As the simulator answers it."""
        error: dict[str, Any] = {"type": "invalid_request_error", "message": self.message}
        return Refusal(self.status, {**error, **dict(self.fields)})


# The account does not have it, or the key may not: nobody's fault, and no reason to fail a run.
UNAVAILABLE = (
    Wording(
        path="/v1/issuing/cards",
        status=400,
        message="Your account is not set up to use Issuing. Please visit "
        "https://dashboard.stripe.com/issuing/overview to get started.",
        source="https://github.com/airbytehq/airbyte/issues/26483",
    ),
    Wording(
        path="/v1/identity/verification_reports",
        status=400,
        message="Your account is not set up to use Identity. Please have an account admin visit "
        "https://dashboard.stripe.com/identity to get started.",
        source=_SKIPPABLE,
    ),
    Wording(
        path="/v1/forwarding/requests",
        status=400,
        message="Your account is not authorized to send Forwarding requests in livemode. To enable "
        "access, please contact us via https://support.stripe.com/contact.",
        source=_SKIPPABLE,
    ),
    Wording(
        path="/v1/test_helpers/test_clocks",
        status=400,
        message="This endpoint is only available in testmode. Try using your test keys instead.",
        source=_SKIPPABLE,
    ),
    Wording(
        path="/v1/treasury/financial_accounts",
        status=404,
        message="Unrecognized request URL (GET: /v1/treasury/financial_accounts). Please see "
        "https://stripe.com/docs or we can help at https://support.stripe.com/. (Hint: Have you "
        "onboarded to Treasury? You can learn more about the steps needed at "
        "https://stripe.com/docs/treasury/access)",
        source="https://github.com/stripe/stripe-python/issues/1338",
    ),
    Wording(
        path="/v1/treasury/financial_accounts",
        status=400,
        message="Unrecognized request URL (GET: /v1/treasury/financial_accounts). Please see "
        "https://stripe.com/docs or we can help at https://support.stripe.com/.",
        source=_SKIPPABLE,
    ),
    Wording(
        path="/v1/exchange_rates",
        status=404,
        message="Unrecognized request URL (GET: /v1/exchange_rates). Please see "
        "https://stripe.com/docs or we can help at https://support.stripe.com/.",
        source=f"{_SYNC_ENGINE}/pull/284",
    ),
    Wording(
        path="/v2/core/accounts",
        status=400,
        message="Accounts v2 is not enabled for your platform. If you're interested in using this "
        "API with your integration, please visit "
        "https://dashboard.stripe.com/acct_1/settings/connect/platform-setup.",
        source=_SKIPPABLE,
        fields=(("code", "accounts_v2_access_blocked"),),
    ),
    Wording(
        path="/v2/core/accounts",
        status=400,
        message="Accounts v2 is not enabled for your merchant.",
        source=f"{_SYNC_ENGINE}/pull/348",
    ),
    Wording(
        path="/v2/core/accounts",
        status=400,
        message="Accounts v2 isn't available in test mode. Switch to a sandbox to test.",
        source=f"{_SYNC_ENGINE}/pull/317",
    ),
    Wording(
        path="/v1/sigma/scheduled_query_runs",
        status=400,
        message="This API surface is not enabled for testmode usage.",
        source=f"{_SYNC_ENGINE}/pull/317",
    ),
    Wording(
        path="/v1/climate/orders",
        status=400,
        message="Account not eligible for Climate Orders",
        source=f"{_SYNC_ENGINE}/pull/382",
    ),
    Wording(
        path="/v2/money_management/financial_accounts",
        status=400,
        message="(The words were not seen: the type decides.)",
        source="https://github.com/stripe/stripe-python/blob/master/stripe/_api_requestor.py",
        fields=(("type", "feature_not_enabled"),),
    ),
    Wording(
        path="/v1/credit_notes",
        status=403,
        message="Permission denied. The provided key 'rk_live_***' does not have the required "
        "permissions for this endpoint on account 'acct_1'. Enabling \"Credit Notes Read\" "
        "('credit_note_read') permissions on this key would allow this request to continue.",
        source="https://github.com/PostHog/posthog/pull/63744",
    ),
    Wording(
        path="/v1/accounts",
        status=403,
        message="The provided key 'rk_live_***' does not have the required permissions for this "
        "endpoint on account 'acct_1'. Having the 'rak_connected_account_read' permission would "
        "allow this request to continue.",
        source="https://github.com/airbytehq/airbyte/issues/21394",
    ),
    Wording(
        path="/v1/payouts",
        status=403,
        message="The provided key 'rk_test_***' does not have the required permissions for this "
        "endpoint on account 'acct_1'. This is a restricted API key, but the required permissions "
        "are not available for use by restricted keys.",
        source="https://github.com/invertase/stripe-firebase-extensions/issues/445",
    ),
    Wording(
        path="/v1/accounts",
        status=403,
        message="This application does not have the required permissions for this endpoint on "
        "account 'acct_1'. Having the 'read_only' scope would allow this request to continue.",
        source="https://github.com/stripe/stripe-apps/issues/458",
    ),
    Wording(
        path="/v1/disputes",
        status=401,
        message="The provided key 'rk_live_***' does not have the required permissions for this "
        "endpoint on account 'acct_1'. Having the 'rak_dispute_read' permission would allow this "
        "request to continue.",
        source="https://github.com/estuary/connectors/blob/main/source-stripe-native/"
        "source_stripe_native/resources.py",
    ),
    Wording(
        path="/v1/accounts",
        status=403,
        message="Only Stripe Connect platforms can work with other accounts. If you specified a "
        "client_id parameter, make sure it's correct. If you need to setup a Stripe Connect "
        "platform, you can do so at https://dashboard.stripe.com/account/applications/settings.",
        source="https://github.com/stripe/stripe-apps/issues/505",
        fields=(("code", "platform_account_required"),),
    ),
)

# What was asked is wrong: a mistake in the configuration or in the source, for somebody to see.
MISTAKES = (
    Wording(
        path="/v1/reporting/report_types",
        status=400,
        message="Received unknown parameter: limit",
        source="https://docs.stripe.com/error-codes#parameter-unknown",
        fields=(("code", "parameter_unknown"), ("param", "limit")),
    ),
    Wording(
        path="/v1/customers",
        status=400,
        message="Received unknown parameters: object, limit",
        source="https://github.com/stripe/stripe-cli/issues/722",
        fields=(("code", "parameter_unknown"), ("param", "object")),
    ),
    Wording(
        path="/v1/invoices",
        status=400,
        message="Missing required param: customer.",
        source=f"{_SYNC_ENGINE}/pull/284",
        fields=(("code", "parameter_missing"), ("param", "customer")),
    ),
    Wording(
        path="/v1/charges",
        status=400,
        message="Must provide source or customer.",
        source="https://github.com/stripe/stripe-php/issues/180",
    ),
    Wording(
        path="/v1/customers",
        status=404,
        message="No such customer: cus_1; a similar object exists in live mode, but a test mode "
        "key was used to make this request.",
        source="https://github.com/payolapayments/payola/issues/278",
        fields=(("code", "resource_missing"), ("param", "id")),
    ),
    Wording(
        path="/v1/refunds",
        status=404,
        message="No such event: evt_1; a similar object exists in live mode, but a test mode key "
        "was used to make this request.",
        source="https://github.com/pinax/pinax-stripe-light/issues/227",
    ),
    Wording(
        path="/v1/customers",
        status=404,
        message="Unrecognized request URL (GET: /v1/v2/core/events). Please see "
        "https://stripe.com/docs or we can help at https://support.stripe.com/.",
        source="https://github.com/stripe/stripe-cli/pull/1390",
    ),
    Wording(
        path="/v1/checkout/sessions",
        status=404,
        message="Unrecognized request URL (GET: /v1/checkout/sessions/). If you are trying to list "
        "objects, remove the trailing slash. If you are trying to retrieve an object, make sure "
        "you passed a valid (non-empty) identifier in your code. Please see "
        "https://stripe.com/docs or we can help at https://support.stripe.com/.",
        source="https://github.com/exercism/website/issues/7869",
    ),
    Wording(
        path="/v1/customers",
        status=400,
        message="We couldn't charge this card because its Stripe token was created with an API key "
        "in live mode and now a charge is being attempted with an API key in test mode.",
        source="https://github.com/andrewculver/koudoku/issues/37",
    ),
    Wording(
        path="/v1/customers",
        status=400,
        message="The account acct_1 was a test account created with a testmode key, and therefore "
        "can only be used with testmode keys",
        source="https://github.com/Subscribie/subscribie/issues/982",
    ),
    Wording(
        path="/v1/charges",
        status=400,
        message="A source must be attached to a customer to be used as a `payment_method`.",
        source="https://github.com/dj-stripe/dj-stripe/issues/1648",
    ),
)

# No list can be read with this key, from here.
KEY_REFUSED = (
    Wording(
        path="/v1/customers",
        status=401,
        message="Expired API Key provided: rk_test_***aaaaaa",
        source="https://github.com/stripe/stripe-cli/pull/792",
        fields=(("code", "api_key_expired"),),
    ),
    Wording(
        path="/v1/customers",
        status=401,
        message="Expired API Key provided: sk_test_***. Platform access may have been revoked.",
        source="https://github.com/theopolisme/react-native-stripe-terminal/issues/35",
        fields=(("code", "platform_api_key_expired"),),
    ),
    Wording(
        path="/v1/customers",
        status=401,
        message="Invalid API Key provided: nil. This key contains at least one space. Please "
        "delete the spaces and try again. If you have any questions, we can help at "
        "https://support.stripe.com/.",
        source="https://github.com/coreymgilmore/stripe-appengine-frontend/issues/2",
    ),
    Wording(
        path="/v1/customers",
        status=401,
        message="The API key provided does not allow requests from your IP address.",
        source="https://github.com/PostHog/posthog/pull/64017",
    ),
    Wording(
        path="/v1/customers",
        status=403,
        message="The API key provided does not allow requests from your IP address.",
        source="https://github.com/PostHog/posthog/pull/64017",
    ),
    Wording(
        path="/v1/customers",
        status=403,
        message="The provided key 'sk_test_***qPsl' does not have access to account 'acct_1' (or "
        "that account does not exist). Application access may have been revoked.",
        source="https://github.com/PostHog/posthog/pull/64189",
        fields=(("code", "account_invalid"),),
    ),
)

# The same, but only of requests that name a connected account.
PLATFORM_REFUSED = (
    Wording(
        path="/v1/customers",
        status=403,
        message="Only Stripe Connect platforms can work with other accounts. If you specified a "
        "client_id parameter, make sure it's correct.",
        source="https://github.com/PostHog/posthog/pull/63757",
    ),
    Wording(
        path="/v1/customers",
        status=403,
        message="You passed a restricted API key with the Stripe-Account header, but the "
        "restricted API key does not have any Connect permissions.",
        source="https://github.com/stripe/stripe-mirakl-connector/issues/33",
    ),
    Wording(
        path="/v1/customers",
        status=400,
        message="You cannot access the connected accounts of your platform's connected accounts.",
        source="https://github.com/PostHog/posthog/pull/104098",
    ),
)
