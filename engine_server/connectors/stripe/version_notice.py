"""Notices about the account's default API version, in which polled events are rendered."""

from engine_server.connectors.stripe.account import Account
from engine_server.connectors.stripe.catalog import api_version
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.errors import RequestFailed
from engine_server.connectors.stripe.events.api_version import is_safe


async def default_version(client: StripeClient, config: StripeConfig, account: Account) -> str:
    """Return the API version in which ``/v1/events`` renders events; empty when it is not known.

    Args:
        client: The way to Stripe.
        config: Of the pipeline.
        account: As Stripe showed it: the version came with it. A key that may not see the account
            may read events, if it is to poll them.

    Raises:
        ConnectionFailed: see ``StripeClient.get``.
    """
    if account.default_version or not config.poll_events:
        return account.default_version
    try:
        answer = await client.get_in_default_version("/v1/events", {"limit": "1"})
    except RequestFailed:
        # Nothing but a notice depends on it.
        return ""
    return answer.stripe_version


def version_notice(config: StripeConfig, account_version: str) -> str:
    """Return a sentence for a user; empty when there is nothing to know.

    Args:
        config: Of the pipeline.
        account_version: What ``default_version`` answers.
    """
    rows = config.api_version or api_version()
    if not account_version:
        return ""
    if is_safe(account_version, rows):
        if not config.poll_events:
            return ""
        return (
            f"polled events are rendered in the account's default API version {account_version}, "
            "which agrees with the rows: they need no look-ups"
        )
    if config.webhook_url is not None and not config.poll_events:
        # What comes to the endpoint is in the version that it is pinned to.
        return ""
    cost = (
        "polled events are rendered in the former, so each costs a look-up of its object"
        if config.poll_events
        else "with poll_events, each event would cost a look-up of its object"
    )
    way_out = (
        f"webhooks to webhook_url are spared that, as their endpoint is pinned to {rows}"
        if config.webhook_url is not None
        else f"webhooks to a webhook_url are spared that, as setup pins their endpoint to {rows}"
    )
    return (
        f"the account's default API version is {account_version}, and rows are read in {rows}: "
        f"{cost}; {way_out}, and so are polled events once the account's default version is {rows} "
        "(Stripe's Workbench changes it)"
    )
