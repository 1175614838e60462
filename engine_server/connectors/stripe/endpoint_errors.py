"""What to do when Stripe refuses to make, change or remove a webhook endpoint."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.endpoint_list import Endpoint
from engine_server.connectors.stripe.errors import RequestFailed
from engine_server.errors import ConnectorError

# It has no code, and the number is not the same for all accounts: 16
# (https://github.com/getlago/lago-api/pull/2154) or 100
# (https://github.com/PostHog/posthog/pull/83460).
_FULL = re.compile(r"reached the maximum of (\d+) (?:test )?webhook endpoints", re.IGNORECASE)


def is_full(error: RequestFailed) -> bool:
    """Whether the account may have no more endpoints."""
    return _FULL.search(error.stripe_message) is not None


def refuse_for_want_of_room(error: RequestFailed, ours: Sequence[Endpoint]) -> NoReturn:
    """Says what makes room.

    Args:
        error: One that ``is_full``.
        ours: The endpoints that pipesync made for the account.

    Raises:
        ConnectorError: Always.
    """
    found = _FULL.search(error.stripe_message)
    most = found[1] if found else "no more"
    own = ", ".join(f"{endpoint.id} for {endpoint.url}" for endpoint in ours) or "none"
    raise ConnectorError(
        f"the account has as many webhook endpoints as Stripe lets it have ({most}). Remove one "
        "that nobody needs in Stripe's dashboard, under Webhooks, and run setup again; or leave "
        "webhook_url out, and use poll_events. Of those that there are, pipesync made these for "
        f"this account: {own}"
    ) from error


@contextmanager
def explain_refusal(config: StripeConfig) -> Iterator[None]:
    """Turns Stripe's refusals inside the block into words that name the remedy.

    Raises:
        ConnectorError: The key lacks the permission, or Stripe does not take the URL.
    """
    try:
        yield
    except RequestFailed as error:
        if error.status in (401, 403) and error.stripe_message:
            raise ConnectorError(
                "the key may not look after webhook endpoints: give the restricted key the "
                "permission to write webhook endpoints (webhook_write); or leave webhook_url out, "
                f"and remove the endpoint for {config.webhook_url} in Stripe's dashboard if there "
                f"is one. Stripe says: {error.stripe_message}"
            ) from error
        if error.param == "url":
            raise ConnectorError(
                f"Stripe does not take webhook_url ({config.webhook_url}): {error.stripe_message}"
            ) from error
        raise
