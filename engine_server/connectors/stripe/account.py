"""The account that is read: the key's own, or one that is connected to it."""

import re
from dataclasses import dataclass, field

from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.errors import RequestFailed
from engine_server.errors import ConnectionFailed

# With the header Stripe-Account it answers the connected account.
_ACCOUNT_PATH = "/v1/account"
# A restricted key that may not see its account is told on which one it may not, quoted or not
# (https://github.com/stripe/stripe-node/issues/2246). An id that is partly hidden, as in
# acct_1*****3, names no account.
_NAMED_ACCOUNT = re.compile(r"\bacct_[A-Za-z0-9_]++(?!\*|\.\.|…)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What is known of the account.

    Attributes:
        id: ``acct_...``.
        created: When it was made, in Unix seconds; None when it is not known.
        default_version: The API version of requests that name none, in which its events are
            rendered; empty when it is not known.
    """

    id: str
    created: int | None
    default_version: str = field(default="", compare=False)


async def fetch_account(client: StripeClient, config: StripeConfig) -> Account:
    """The account that the configuration gives, else the one that Stripe shows or names.

    Raises:
        ConnectionFailed: the API cannot be reached, refuses the key, or does not show the account.
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
    """The same, but Stripe is asked in any case whether it is the right one.

    Every record carries the id, so a wrong one would mix the account's rows with another's. A fake
    of Stripe that has no account to show contradicts nothing.

    Raises:
        ConnectionFailed: see ``fetch_account``; and the key reads another account.
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
        # Of a connected account it is not known which of the two would be named.
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
    """The account that a refusal names as the key's; None when it names none, or several."""
    # An account that the key has no access to is another one.
    if error.status not in (401, 403) or error.stripe_code == "account_invalid":
        return None
    named = set(_NAMED_ACCOUNT.findall(error.stripe_message))
    return Account(id=named.pop(), created=None) if len(named) == 1 else None


async def _shown_account(client: StripeClient) -> Account | None:
    """The account that the API shows; None when what it answers is none."""
    # What is read of it is the same in every version.
    answer = await client.get_in_default_version(_ACCOUNT_PATH, {})
    fields = answer.body if isinstance(answer.body, dict) else {}
    account_id, created = fields.get("id"), fields.get("created")
    if not isinstance(account_id, str):
        return None
    return Account(
        id=account_id,
        created=created if type(created) is int else None,
        default_version=answer.stripe_version,
    )
