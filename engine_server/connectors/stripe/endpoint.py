"""The webhook endpoint that a pipeline keeps at Stripe: made, found again, mended and removed.

Rules: https://docs.stripe.com/api/webhook_endpoints. Its secret is only told when it is made, and
its API version is for ever. The endpoint of a connected account is one of its platform's: Stripe
refuses any on the account itself ("Did you mean to create a Connect webhook on your account
instead?", https://github.com/stripe/stripe-php/pull/541). It is sent the events of all connected
accounts; those of others are left out when they come in.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from engine_server.connectors.stripe.catalog import api_version
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.config import RegisteredEndpoint, StripeConfig
from engine_server.connectors.stripe.endpoint_errors import (
    explain_refusal,
    is_full,
    refuse_for_want_of_room,
)
from engine_server.connectors.stripe.endpoint_events import ALL_EVENTS, event_types_for
from engine_server.connectors.stripe.endpoint_list import PATH, Endpoint, list_own, metadata_of
from engine_server.connectors.stripe.errors import RequestFailed
from engine_server.connectors.stripe.retry import RetryPolicy
from engine_server.errors import ConnectorError

_DESCRIPTION = "Made by pipesync for one of its pipelines, which removes it when it is torn down."


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUp:
    """What came of setting an endpoint up.

    Attributes:
        endpoint: The one that there is now; None when there is to be none.
        superseded: Those that it takes the place of: to be removed once its secret is handed on.
        done: A sentence for each thing that was done, or left.
    """

    endpoint: RegisteredEndpoint | None = None
    superseded: Sequence[Endpoint] = ()
    done: list[str] = field(default_factory=list)


def platform_client(config: StripeConfig, policy: RetryPolicy) -> StripeClient:
    """A client of the account that the key belongs to, whichever account is read with it."""
    return StripeClient(config.model_copy(update={"stripe_account": None}), policy)


async def set_up(
    client: StripeClient, config: StripeConfig, account_id: str, streams: Iterable[str]
) -> SetUp:
    """Makes the endpoint for ``webhook_url``, or mends the one there is; safe to repeat.

    An endpoint of ours is taken on when it is the one that the configuration names, whose secret it
    therefore holds, and has the right API version. Any other for the same URL is superseded: its
    secret is lost, as when a setup broke off before it was stored. So is the one that the
    configuration names for a URL from before. Nothing else is touched: what other pipelines have,
    or people made.

    Args:
        client: What ``platform_client`` gives.
        config: Of the pipeline.
        account_id: The account that is read.
        streams: The names of the selected streams.

    Raises:
        ConnectionFailed: see ``StripeClient.get``.
        ConnectorError: The key may not do it, the account has too many, or Stripe refuses the URL.
    """
    with explain_refusal(config):
        ours = await list_own(client, account_id)
        here = [endpoint for endpoint in ours if endpoint.url == config.webhook_url]
        named = [endpoint for endpoint in ours if endpoint.id == config.own_endpoint_id]
        superseded = here + [endpoint for endpoint in named if endpoint not in here]
        if config.webhook_url is None:
            return SetUp(superseded=superseded)
        events = _enabled_events(config, streams)
        if not events:
            left_out = "made no webhook endpoint: Stripe has no events about the selected streams"
            return SetUp(superseded=superseded, done=[left_out])
        version = config.api_version or api_version()
        for endpoint in named:
            if endpoint in here and endpoint.api_version == version:
                done = await _mend(client, endpoint, events)
                superseded.remove(endpoint)
                kept = RegisteredEndpoint(id=endpoint.id)
                return SetUp(endpoint=kept, superseded=superseded, done=done)
        # Without its secret, an endpoint is of no use to anybody.
        useless = [endpoint for endpoint in here if endpoint not in named]
        form = _form(config, account_id, version, events)
        made = await _create(client, form, ours, useless)
        done = [f"registered webhook endpoint {made.id} for {config.webhook_url}"]
        others = [endpoint for endpoint in ours if endpoint not in superseded]
        if others and not named:
            done.append(f"left other webhook endpoints of pipesync alone: {_listed(others)}")
        return SetUp(endpoint=made, superseded=superseded, done=done)


async def tear_down(client: StripeClient, config: StripeConfig, account_id: str) -> list[str]:
    """Removes the pipeline's endpoints, and no others; safe to repeat.

    Args and errors as of ``set_up``.

    Returns:
        A sentence for each that was removed.
    """
    with explain_refusal(config):
        ours = await list_own(client, account_id)
        own = [
            endpoint
            for endpoint in ours
            if endpoint.id == config.own_endpoint_id or endpoint.url == config.webhook_url
        ]
        return await remove(client, own)


async def remove(client: StripeClient, endpoints: Iterable[Endpoint]) -> list[str]:
    """Removes endpoints, and answers a sentence for each.

    Raises:
        ConnectionFailed: see ``StripeClient.get``.
        RequestFailed: Stripe refuses it, or keeps failing.
    """
    done = []
    for endpoint in endpoints:
        try:
            await client.delete(f"{PATH}/{endpoint.id}")
        except RequestFailed as error:
            # Somebody else was faster, or the answer of an attempt before was lost.
            if error.status != 404:
                raise
        done.append(f"removed webhook endpoint {endpoint.id} for {endpoint.url}")
    return done


def _enabled_events(config: StripeConfig, streams: Iterable[str]) -> list[str]:
    """What the endpoint is to be sent; nothing when no event is about the streams."""
    events = event_types_for(list(streams))
    # Which types another API version has is not known here.
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
    """Makes the endpoint, if need be in the place of those that are of no use."""
    try:
        return await _create_once(client, form)
    except RequestFailed as error:
        if not is_full(error):
            raise
        if not useless:
            refuse_for_want_of_room(error, ours)
    await remove(client, useless)
    return await _create_once(client, form)


async def _create_once(client: StripeClient, form: Mapping[str, str]) -> RegisteredEndpoint:
    # A key of its own each time: with one that came before, Stripe would answer with an endpoint
    # that may have been removed since.
    answer = await client.post(PATH, form, idempotency_key=uuid.uuid4().hex)
    match answer.body:
        case {"id": str(endpoint_id), "secret": str(secret)}:
            return RegisteredEndpoint(id=endpoint_id, secret=secret)
    raise ConnectorError(
        f"POST {PATH} was not answered with an endpoint and its secret; "
        f"request_id: {answer.request_id}"
    )


async def _mend(client: StripeClient, endpoint: Endpoint, events: Sequence[str]) -> list[str]:
    """Has it sent what is wanted, and enabled again: Stripe disables one that fails for days."""
    form: dict[str, str] = {}
    done = []
    if not endpoint.is_enabled:
        form["disabled"] = "false"
        done.append(f"enabled webhook endpoint {endpoint.id} again")
    if endpoint.enabled_events != frozenset(events):
        form |= _events_form(events)
        done.append(f"changed what webhook endpoint {endpoint.id} is sent")
    if form:
        path = f"{PATH}/{endpoint.id}"
        await client.post(path, form, endpoint=PATH, idempotency_key=uuid.uuid4().hex)
    return done


def _listed(endpoints: Iterable[Endpoint]) -> str:
    return ", ".join(f"{endpoint.id} for {endpoint.url}" for endpoint in endpoints)
