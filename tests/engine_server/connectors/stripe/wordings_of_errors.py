"""Stripe's messages when a request or the key is wrong, each with its source."""

from tests.engine_server.connectors.stripe.wordings import Wording

# The request is wrong: a mistake in the configuration or in the source, which must be reported.
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
    # About a parameter that was sent: its value is wrong, not missing.
    Wording(
        path="/v1/charges",
        status=400,
        message="Missing required param: limit.",
        source="The wording of a missing parameter, of one that pipesync sends",
        fields=(("code", "parameter_missing"), ("param", "limit")),
    ),
    Wording(
        path="/v1/charges",
        status=400,
        message="You must provide an integer for limit.",
        source="The same, where the parameter is named in the words alone",
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

# No list can be read with this key from this address.
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
        # Seen with 401 only; other restrictions of a key have this status.
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
