"""Webhook endpoint of a pipeline at Stripe: created, found, updated and removed.

Rules: https://docs.stripe.com/api/webhook_endpoints. Stripe returns its secret only at creation,
and its API version is fixed. The endpoint of a connected account belongs to its platform: Stripe
refuses any on the account itself ("Did you mean to create a Connect webhook on your account
instead?", https://github.com/stripe/stripe-php/pull/541). It receives the events of all connected
accounts; those of other accounts are dropped on arrival.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.api.stripe_api import StripeApi
from engine_server.connectors.stripe.catalog.streams import api_version
from engine_server.connectors.stripe.config import RegisteredEndpoint, StripeConfig
from engine_server.connectors.stripe.webhook_endpoint.errors import (
    explain_refusal,
    is_full,
    raise_limit_reached,
)
from engine_server.connectors.stripe.webhook_endpoint.event_types import ALL_EVENTS, event_types_for
from engine_server.connectors.stripe.webhook_endpoint.listing import (
    PATH,
    Endpoint,
    list_own,
    metadata_of,
)
from engine_server.errors import ConnectorError
from engine_server.text import is_storable

_DESCRIPTION = "Made by pipesync for one of its pipelines, which removes it when it is torn down."


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupResult:
    """The result of setting up an endpoint.

    Attributes:
        endpoint: The current endpoint; None if there is to be none.
        superseded: The endpoints that it replaces, to be removed once its secret is passed on.
        done: A sentence about each action.
    """

    endpoint: RegisteredEndpoint | None = None
    superseded: Sequence[Endpoint] = ()
    done: Sequence[str] = ()


def platform_client(api: StripeApi, config: StripeConfig) -> StripeClient:
    """Return a client of the account that the key belongs to, even if it reads another one."""
    return api.client(config.model_copy(update={"stripe_account": None}))


async def set_up(
    client: StripeClient, config: StripeConfig, account_id: str, streams: Iterable[str]
) -> SetupResult:
    """Create the endpoint for ``webhook_url``, or update the present one; safe to repeat.

    An endpoint of ours is kept if the configuration names it, and therefore holds its secret, and
    its API version is right. Any other for the same URL is superseded: its secret is lost, for
    example when a setup failed before storing it. The endpoint that the configuration names for an
    earlier URL is superseded, too. Endpoints of other pipelines, or made by users, are left alone.

    Args:
        client: The client of ``platform_client``.
        config: The configuration of the pipeline.
        account_id: The account being read.
        streams: The names of the selected streams.

    Raises:
        ConnectionFailed: See ``StripeClient.get``.
        ConnectorError: The key lacks the permission, the account has too many endpoints, or Stripe
            refuses the URL.
    """
    with explain_refusal(config):
        ours = await list_own(client, account_id)
        here = [endpoint for endpoint in ours if endpoint.url == config.webhook_url]
        named = [endpoint for endpoint in ours if endpoint.id == config.own_endpoint_id]
        superseded = here + [endpoint for endpoint in named if endpoint not in here]
        if config.webhook_url is None:
            return SetupResult(superseded=superseded)
        events = _enabled_events(config, streams)
        if not events:
            left_out = "made no webhook endpoint: Stripe has no events about the selected streams"
            return SetupResult(superseded=superseded, done=[left_out])
        version = config.api_version or api_version()
        for endpoint in named:
            if endpoint in here and endpoint.api_version == version:
                done = await _update(client, endpoint, events)
                superseded.remove(endpoint)
                kept = RegisteredEndpoint(id=endpoint.id)
                return SetupResult(endpoint=kept, superseded=superseded, done=done)
        # An endpoint without a known secret is useless.
        useless = [endpoint for endpoint in here if endpoint not in named]
        form = _form(config, account_id, version, events)
        made = await _create(client, form, ours, useless)
        done = [f"registered webhook endpoint {made.id} for {config.webhook_url}"]
        others = [endpoint for endpoint in ours if endpoint not in superseded]
        if others and not named:
            done.append(f"left other webhook endpoints of pipesync alone: {_listed(others)}")
        return SetupResult(endpoint=made, superseded=superseded, done=done)


async def tear_down(client: StripeClient, config: StripeConfig, account_id: str) -> list[str]:
    """Remove the pipeline's endpoints and no others; safe to repeat.

    Args and errors as in ``set_up``.

    Returns:
        A sentence about each removed endpoint.
    """
    with explain_refusal(config):
        return await remove(client, await _list_of_pipeline(client, config, account_id))


async def plan_teardown(
    client: StripeClient, config: StripeConfig, account_id: str
) -> list[Endpoint]:
    """Return the endpoints that ``tear_down`` would remove; args and errors as in ``set_up``."""
    with explain_refusal(config):
        return await _list_of_pipeline(client, config, account_id)


async def remove(client: StripeClient, endpoints: Iterable[Endpoint]) -> list[str]:
    """Remove endpoints, and return a sentence about each.

    Raises:
        ConnectionFailed: See ``StripeClient.get``.
        RequestFailed: Stripe refuses it, or keeps failing.
    """
    done = []
    for endpoint in endpoints:
        try:
            await client.delete(f"{PATH}/{endpoint.id}")
        except RequestFailed as error:
            # Removed by another caller, or by an earlier attempt whose response was lost.
            if error.status != 404:
                raise
        done.append(f"removed webhook endpoint {endpoint.id} for {endpoint.url}")
    return done


async def _list_of_pipeline(
    client: StripeClient, config: StripeConfig, account_id: str
) -> list[Endpoint]:
    return [
        endpoint
        for endpoint in await list_own(client, account_id)
        if endpoint.id == config.own_endpoint_id or endpoint.url == config.webhook_url
    ]


def _enabled_events(config: StripeConfig, streams: Iterable[str]) -> list[str]:
    """Return the event types of the endpoint; none if no events concern the streams."""
    events = event_types_for(list(streams))
    # The event types of another API version are unknown here.
    is_ours = config.api_version in (None, api_version())
    return events if is_ours or not events else [ALL_EVENTS]


def _form(
    config: StripeConfig, account_id: str, version: str, events: Sequence[str]
) -> Mapping[str, str]:
    return {
        "url": config.webhook_url or "",
        "api_version": version,
        "connect": "false" if config.stripe_account is None else "true",
        "description": _DESCRIPTION,
        **{f"metadata[{name}]": value for name, value in metadata_of(account_id).items()},
        **_events_form(events),
    }


def _events_form(events: Sequence[str]) -> dict[str, str]:
    return {f"enabled_events[{number}]": name for number, name in enumerate(events)}


async def _create(
    client: StripeClient,
    form: Mapping[str, str],
    ours: Sequence[Endpoint],
    useless: Sequence[Endpoint],
) -> RegisteredEndpoint:
    """Create the endpoint, replacing useless ones if there are too many."""
    try:
        return await _create_once(client, form)
    except RequestFailed as error:
        if not is_full(error):
            raise
        if not useless:
            raise_limit_reached(error, ours)
    await remove(client, useless)
    return await _create_once(client, form)


async def _create_once(client: StripeClient, form: Mapping[str, str]) -> RegisteredEndpoint:
    # A new key each time: for a repeated one, Stripe would return an endpoint that may have been
    # removed since.
    answer = await client.post(PATH, form, idempotency_key=uuid.uuid4().hex)
    match answer.body:
        case {"id": str(endpoint_id), "secret": str(secret)} if is_storable(endpoint_id + secret):
            return RegisteredEndpoint(id=endpoint_id, secret=secret)
    raise ConnectorError(
        f"POST {PATH} was not answered with an endpoint and its secret; "
        f"request_id: {answer.request_id}"
    )


async def _update(client: StripeClient, endpoint: Endpoint, events: Sequence[str]) -> list[str]:
    """Update its event types, and enable it: Stripe disables an endpoint that fails for days."""
    form: dict[str, str] = {}
    done = []
    if not endpoint.is_enabled:
        form["disabled"] = "false"
        done.append(f"enabled webhook endpoint {endpoint.id} again")
    if endpoint.enabled_events != frozenset(events):
        form |= _events_form(events)
        done.append(f"changed the event types of webhook endpoint {endpoint.id}")
    if form:
        path = f"{PATH}/{endpoint.id}"
        await client.post(path, form, endpoint=PATH, idempotency_key=uuid.uuid4().hex)
    return done


def _listed(endpoints: Iterable[Endpoint]) -> str:
    return ", ".join(f"{endpoint.id} for {endpoint.url}" for endpoint in endpoints)
