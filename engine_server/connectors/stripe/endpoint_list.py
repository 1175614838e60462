"""The webhook endpoints of an account that pipesync made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine_server import exact_json
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.empty_pages import get_page
from engine_server.connectors.stripe.errors import RequestFailed

PATH = "/v1/webhook_endpoints"

# What ours are known by: whose they are, and which account's events they are for.
_MAKER = {"managed_by": "pipesync"}
_ACCOUNT = "pipesync_account"
# The most that a list gives (https://docs.stripe.com/api/pagination).
_PAGE_SIZE = "100"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A webhook endpoint as Stripe shows it.

    Attributes:
        id: ``we_...``
        url: Where its events go.
        api_version: In which they are; None for the account's.
        enabled_events: Which types of them.
        is_enabled: Whether any are sent.
    """

    id: str
    url: str
    api_version: str | None
    enabled_events: frozenset[str]
    is_enabled: bool


def metadata_of(account_id: str) -> Mapping[str, str]:
    """What an endpoint of ours is marked with.

    Args:
        account_id: The account that is read.
    """
    return {**_MAKER, _ACCOUNT: account_id}


async def list_own(client: StripeClient, account_id: str) -> list[Endpoint]:
    """Those that pipesync made for the events of an account, of all its pipelines.

    Raises:
        ConnectionFailed: see ``StripeClient.get``.
        EmptyPage: a page promises more and holds nothing.
        RequestFailed: see ``StripeClient.get``, and an answer that is no list of endpoints.
    """
    marks = metadata_of(account_id).items()
    found: list[Endpoint] = []
    params = {"limit": _PAGE_SIZE}
    while True:
        answer = await get_page(
            client,
            PATH,
            params,
            decode=exact_json.decode,
            is_empty=_is_empty,
            noun="webhook endpoints",
        )
        match answer.body:
            case {"data": list(page), "has_more": bool(has_more)}:
                pass
            case _:
                raise _no_list(answer.request_id)
        try:
            found += [_endpoint(shown) for shown in page if marks <= shown["metadata"].items()]
            if not has_more:
                return found
            params["starting_after"] = page[-1]["id"]
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise _no_list(answer.request_id) from error


def _is_empty(answer: Any) -> bool:
    """Whether a page promises more and holds nothing."""
    return isinstance(answer, dict) and answer.get("has_more") is True and answer.get("data") == []


def _endpoint(shown: Mapping[str, Any]) -> Endpoint:
    return Endpoint(
        id=shown["id"],
        url=shown["url"],
        api_version=shown["api_version"],
        enabled_events=frozenset(shown["enabled_events"]),
        is_enabled=shown["status"] == "enabled",
    )


def _no_list(request_id: str) -> RequestFailed:
    return RequestFailed(
        f"GET {PATH} was not answered with a list of webhook endpoints; request_id: {request_id}",
        status=200,
    )
