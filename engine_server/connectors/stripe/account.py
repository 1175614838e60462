"""The account being read: the key's own, or one connected to it."""

import re
from dataclasses import dataclass, field

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.errors import ConnectionFailed
from engine_server.text import is_storable

# With the header Stripe-Account it returns the connected account.
_ACCOUNT_PATH = "/v1/account"
# A restricted key that may not read its account gets an error that names the account, quoted or not
# (https://github.com/stripe/stripe-node/issues/2246). A partly hidden id, as in acct_1*****3, names
# no account.
_NAMED_ACCOUNT = re.compile(r"\bacct_[A-Za-z0-9_]++(?!\*|\.\.|…)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The account being read.

    Attributes:
        id: ``acct_...``.
        created: The creation time in Unix seconds; None if unknown.
        default_version: The API version of requests without a version, and of the account's events;
            empty if unknown.
    """

    id: str
    created: int | None
    default_version: str = field(default="", compare=False)


async def fetch_account(client: StripeClient, config: StripeConfig) -> Account:
    """Return the configured account, else the one that Stripe returns or names.

    Raises:
        ConnectionFailed: The API cannot be reached, refuses the key, or does not show the account.
    """
    if config.known_account_id is not None:
        return Account(id=config.known_account_id, created=config.account_created)
    try:
        shown = await _shown_account(client)
    except RequestFailed as error:
        if (named := _named_account(error)) is not None:
            return named
        raise ConnectionFailed(f"{error.message}; account_id can be configured instead") from error
    if shown is None:
        raise ConnectionFailed(
            f"GET {_ACCOUNT_PATH} was not answered with an account; configure account_id"
        )
    return shown


async def confirm_account(client: StripeClient, config: StripeConfig) -> Account:
    """Return the account like ``fetch_account``, after comparing it with Stripe's answer.

    Every record carries the account id, so a wrong one would mix the rows of two accounts. A server
    other than Stripe's that shows no account contradicts nothing.

    Raises:
        ConnectionFailed: See ``fetch_account``; or the key reads another account.
        RequestFailed: Stripe keeps failing.
    """
    known = config.known_account_id
    if known is None:
        return await fetch_account(client, config)
    try:
        shown = await _shown_account(client)
    except RequestFailed as error:
        if error.status is None or error.status == 429 or error.status >= 500:
            raise
        # An error for a connected account may name either of the two accounts.
        shown = None if config.stripe_account else _named_account(error)
    if shown is None:
        return Account(id=known, created=config.account_created)
    if shown.id != known:
        field = "stripe_account" if config.stripe_account else "account_id"
        raise ConnectionFailed(
            f"{field} is {known}, but api_key reads account {shown.id}: records would carry the "
            f"id of the wrong account. {_REMEDIES[field]}"
        )
    return shown


_REMEDIES = {
    "account_id": "Leave account_id out, or name the account of the key; to read an account that "
    "is connected to it, name that one in stripe_account",
    "stripe_account": "Is this an API that knows of connected accounts?",
}


def _named_account(error: RequestFailed) -> Account | None:
    """Return the account that a refusal names as the key's; None if it names none, or several."""
    # This error names the account that was denied, not the key's.
    if error.status not in (401, 403) or error.stripe_code == "account_invalid":
        return None
    named = set(_NAMED_ACCOUNT.findall(error.stripe_message))
    return Account(id=named.pop(), created=None) if len(named) == 1 else None


async def _shown_account(client: StripeClient) -> Account | None:
    """Return the account that the API shows; None if the response is no account."""
    # The fields read here are the same in every version.
    answer = await client.get_in_default_version(_ACCOUNT_PATH, {})
    fields = answer.body if isinstance(answer.body, dict) else {}
    account_id, created = fields.get("id"), fields.get("created")
    # Every record carries the id, so it must be storable.
    if not isinstance(account_id, str) or not is_storable(account_id):
        return None
    return Account(
        id=account_id,
        created=created if type(created) is int else None,
        default_version=answer.stripe_version,
    )
