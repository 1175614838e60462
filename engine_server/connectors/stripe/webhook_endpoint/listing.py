"""Webhook endpoints of an account that pipesync made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine_server import exact_json
from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.lists.empty_pages import get_page
from engine_server.text import is_storable

PATH = "/v1/webhook_endpoints"

# Metadata that mark an endpoint as pipesync's, and its account.
_MAKER = {"managed_by": "pipesync"}
_ACCOUNT = "pipesync_account"
# The largest page of a list (https://docs.stripe.com/api/pagination).
_PAGE_SIZE = "100"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A webhook endpoint as Stripe shows it.

    Attributes:
        id: ``we_...``
        url: The URL that receives its events.
        api_version: The version of its events; None for the account's.
        enabled_events: The types of its events.
        is_enabled: Whether events are sent.
    """

    id: str
    url: str
    api_version: str | None
    enabled_events: frozenset[str]
    is_enabled: bool


def metadata_of(account_id: str) -> Mapping[str, str]:
    """Return the metadata of pipesync's endpoints.

    Args:
        account_id: The account being read.
    """
    return {**_MAKER, _ACCOUNT: account_id}


async def list_own(client: StripeClient, account_id: str) -> list[Endpoint]:
    """Return the endpoints that pipesync made for an account, of all its pipelines.

    Raises:
        ConnectionFailed: See ``StripeClient.get``.
        EmptyPage: A page stays empty although it promises more.
        RequestFailed: See ``StripeClient.get``; or the response is no list of endpoints.
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
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise _no_list(answer.request_id) from error


def _is_empty(answer: Any) -> bool:
    """Return whether a page is empty but promises more."""
    return isinstance(answer, dict) and answer.get("has_more") is True and answer.get("data") == []


def _endpoint(shown: Mapping[str, Any]) -> Endpoint:
    if not is_storable(f"{shown['id']}{shown['url']}"):
        raise ValueError("an endpoint that no message can name")
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
