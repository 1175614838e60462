"""Stripe's messages when an account or a key may not read a list, each with its source.

The paths are those that the messages were seen for, or that they fit.
"""

from dataclasses import dataclass
from typing import Any

from tests.stripe_simulator.errors import Refusal

SYNC_ENGINE = "https://github.com/stripe/sync-engine-fork"
_SKIPPABLE = f"{SYNC_ENGINE}/blob/main/packages/source-stripe/src/src-list-api.ts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """One error response.

    Attributes:
        path: The list that responds with it.
        status: The HTTP status.
        message: Stripe's message; ids and keys are made up.
        source: The URL of its source.
        fields: Further fields of the error body.
    """

    path: str
    status: int
    message: str
    source: str
    fields: tuple[tuple[str, str], ...] = ()

    @property
    def refusal(self) -> Refusal:
        """Return the response of the simulator."""
        error: dict[str, Any] = {"type": "invalid_request_error", "message": self.message}
        return Refusal(self.status, {**error, **dict(self.fields)})


# The account lacks the list, the key may not read it, or the list requires the owner of its
# objects: no reason to fail a run.
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
        source=f"{SYNC_ENGINE}/pull/284",
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
        source=f"{SYNC_ENGINE}/pull/348",
    ),
    Wording(
        path="/v2/core/accounts",
        status=400,
        message="Accounts v2 isn't available in test mode. Switch to a sandbox to test.",
        source=f"{SYNC_ENGINE}/pull/317",
    ),
    Wording(
        path="/v1/sigma/scheduled_query_runs",
        status=400,
        message="This API surface is not enabled for testmode usage.",
        source=f"{SYNC_ENGINE}/pull/317",
    ),
    Wording(
        path="/v1/climate/orders",
        status=400,
        message="Account not eligible for Climate Orders",
        source=f"{SYNC_ENGINE}/pull/382",
    ),
    Wording(
        path="/v1/billing/credit_balance_transactions",
        status=400,
        message="Must provide customer or customer_account.",
        source="https://github.com/PostHog/posthog/pull/75723",
    ),
    Wording(
        path="/v1/invoices",
        status=400,
        message="Missing required param: customer.",
        source=f"{SYNC_ENGINE}/pull/284",
        fields=(("code", "parameter_missing"), ("param", "customer")),
    ),
    Wording(
        path="/v1/charges",
        status=400,
        # Seen for the creation of a charge.
        message="Must provide source or customer.",
        source="https://github.com/stripe/stripe-php/issues/180",
    ),
    Wording(
        path="/v1/payment_records",
        status=400,
        message="(The words were not seen: the code decides.)",
        source="https://docs.stripe.com/error-codes#parameter-missing",
        fields=(("code", "parameter_missing"),),
    ),
    Wording(
        path="/v1/refunds",
        status=400,
        # Seen for the creation of a refund.
        message="One of the following params should be provided for this request: payment_intent "
        "or charge.",
        source="Tests of several clients; https://docs.stripe.com/api/refunds/create",
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
