"""Errors of creating, changing or removing a webhook endpoint, with the remedy."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.webhook_endpoint.listing import Endpoint
from engine_server.errors import ConnectorError

# The error has no code, and the number differs between accounts: 16
# (https://github.com/getlago/lago-api/pull/2154) or 100
# (https://github.com/PostHog/posthog/pull/83460).
_FULL = re.compile(r"reached the maximum of (\d+) (?:test )?webhook endpoints", re.IGNORECASE)


def is_full(error: RequestFailed) -> bool:
    """Return whether the account may have no more endpoints."""
    return _FULL.search(error.stripe_message) is not None


def raise_limit_reached(error: RequestFailed, ours: Sequence[Endpoint]) -> NoReturn:
    """Raise an error that names the endpoints which could be removed.

    Args:
        error: An error that ``is_full``.
        ours: The endpoints that pipesync made for the account.

    Raises:
        ConnectorError: Always.
    """
    found = _FULL.search(error.stripe_message)
    most = found[1] if found else "no more"
    own = ", ".join(f"{endpoint.id} for {endpoint.url}" for endpoint in ours) or "none"
    raise ConnectorError(
        f"the account has the most webhook endpoints that Stripe allows ({most}). Remove an unused "
        "one in Stripe's dashboard, under Webhooks, and run setup again; or leave webhook_url out "
        f"and use poll_events. Of its endpoints, pipesync made these for this account: {own}"
    ) from error


@contextmanager
def explain_refusal(config: StripeConfig) -> Iterator[None]:
    """Convert Stripe's refusals inside the block into errors that name the remedy.

    Raises:
        ConnectorError: The key lacks the permission, or Stripe does not accept the URL.
    """
    try:
        yield
    except RequestFailed as error:
        if error.status in (401, 403) and error.stripe_message:
            raise ConnectorError(
                "the key may not manage webhook endpoints: give the restricted key the "
                "permission to write webhook endpoints (webhook_write); or leave webhook_url out, "
                f"and remove the endpoint for {config.webhook_url} in Stripe's dashboard if there "
                f"is one. Stripe says: {error.stripe_message}"
            ) from error
        if error.param == "url":
            raise ConnectorError(
                f"Stripe does not accept webhook_url ({config.webhook_url}): {error.stripe_message}"
            ) from error
        raise
