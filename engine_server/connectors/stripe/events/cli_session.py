"""A session of the Stripe CLI's: what events are sent to by WebSocket.

Rules: https://github.com/stripe/stripe-cli, pkg/stripeauth (the request and its answer) and pkg/cmd
(the name of the feature).
"""

import platform
import uuid
from dataclasses import dataclass, field
from typing import Any, Self

from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.errors import RequestFailed

_PATH = "/v1/stripecli/sessions"
# Snapshot events. Thin ones have a feature of their own, "v2_events".
_FEATURE = "webhooks"
# pkg/websocket/client.go: defaultReconnectInterval
_RECONNECT_DELAY = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CliSession:
    """What Stripe says of a new session.

    Attributes:
        id: What a connection names.
        url: Where it connects to, ``wss://...``.
        feature: What it connects for; not what was asked for, though it means that.
        secret: What the events are signed with, ``whsec_...``.
        reconnect_delay: After so many seconds a connection is to be made anew.
    """

    id: str
    url: str
    feature: str
    secret: str = field(repr=False)
    reconnect_delay: float

    @classmethod
    async def begin(cls, client: StripeClient) -> Self:
        """Has Stripe make one.

        Raises:
            ConnectionFailed: See ``StripeClient.get``.
            RequestFailed: The same, and an answer that is no session.
        """
        form = {"device_name": platform.node() or "pipesync", "websocket_features[]": _FEATURE}
        answer = await client.post(_PATH, form, idempotency_key=str(uuid.uuid4()))
        match answer.body:
            case {
                "websocket_id": str(session_id),
                "websocket_url": str(url),
                "websocket_authorized_feature": str(feature),
                "secret": str(secret),
            }:
                return cls(
                    id=session_id,
                    url=url,
                    feature=feature,
                    secret=secret,
                    reconnect_delay=_seconds(answer.body.get("reconnect_delay")),
                )
        raise RequestFailed(
            f"POST {_PATH} was not answered with a session; request_id: {answer.request_id}",
            status=200,
        )


def _seconds(delay: Any) -> float:
    is_delay = type(delay) in (int, float) and delay > 0
    return float(delay) if is_delay else _RECONNECT_DELAY
