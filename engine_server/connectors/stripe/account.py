"""The account that a key belongs to."""

from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.errors import RequestFailed
from engine_server.errors import ConnectionFailed

_ACCOUNT_PATH = "/v1/account"
_ANY_LIST_PATH = "/v1/customers"


async def fetch_account_id(client: StripeClient, config: StripeConfig) -> str:
    """The account id that the configuration gives, else the one that Stripe knows.

    Raises:
        ConnectionFailed: the API cannot be reached, refuses the key, or does not show the account.
    """
    if config.known_account_id is not None:
        return config.known_account_id
    try:
        answer = await client.get(_ACCOUNT_PATH, {})
        return str(answer.body["id"])
    except RequestFailed as error:
        raise ConnectionFailed(f"{error.message}; account_id can be configured instead") from error
    except (KeyError, TypeError) as error:
        raise ConnectionFailed(
            f"GET {_ACCOUNT_PATH} was not answered with an account; configure account_id"
        ) from error


async def check_account(client: StripeClient, config: StripeConfig) -> str:
    """Makes one cheap request and says, in words for a person, what it showed.

    Raises:
        ConnectionFailed: the API cannot be reached, or refuses the key.
        RequestFailed: Stripe refused the request.
    """
    if config.known_account_id is None:
        return f"reached account {await fetch_account_id(client, config)}"
    # Fakes of Stripe have no account to show, but lists.
    try:
        await client.get(_ANY_LIST_PATH, {"limit": "1"})
    except RequestFailed as error:
        # The key is good, even if it may not read these.
        if not error.is_unavailable:
            raise
    return f"reached {config.base_url}"
