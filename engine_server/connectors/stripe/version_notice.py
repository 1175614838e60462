"""Notices about the account's default API version, in which polled events are rendered."""

from engine_server.connectors.stripe.account import Account
from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.catalog.streams import api_version
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.events.api_version import is_safe


async def default_version(client: StripeClient, config: StripeConfig, account: Account) -> str:
    """Return the API version in which ``/v1/events`` renders events; empty if unknown.

    Args:
        client: Sends the requests.
        config: The configuration of the pipeline.
        account: The account, with its version if Stripe showed it. A key that may not read the
            account may still read events, if it is to poll them.

    Raises:
        ConnectionFailed: See ``StripeClient.get``.
    """
    if account.default_version or not config.poll_events:
        return account.default_version
    try:
        answer = await client.get_in_default_version("/v1/events", {"limit": "1"})
    except RequestFailed:
        # Only a notice depends on it.
        return ""
    return answer.stripe_version


def version_notice(config: StripeConfig, account_version: str) -> str:
    """Return a notice for the user; empty if there is none.

    Args:
        config: The configuration of the pipeline.
        account_version: The result of ``default_version``.
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
        # Events sent to the endpoint are in the version that it is pinned to.
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
