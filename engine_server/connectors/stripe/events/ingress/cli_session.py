"""Session of the Stripe CLI, which receives events by WebSocket.

Rules: https://github.com/stripe/stripe-cli, pkg/stripeauth (the request and its response) and
pkg/cmd (the name of the feature).
"""

import platform
import uuid
from dataclasses import dataclass, field
from typing import Any, Self

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import RequestFailed

_PATH = "/v1/stripecli/sessions"
# Snapshot events. Thin ones have a separate feature, "v2_events".
_FEATURE = "webhooks"
# pkg/websocket/client.go: defaultReconnectInterval
_RECONNECT_DELAY = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CliSession:
    """A session as Stripe returns it.

    Attributes:
        id: The id that a connection names.
        url: The URL to connect to, ``wss://...``.
        feature: The authorized feature; its name differs from the requested one.
        secret: The secret that signs the events, ``whsec_...``.
        reconnect_delay: Seconds after which a connection has to be renewed.
    """

    id: str
    url: str
    feature: str
    secret: str = field(repr=False)
    reconnect_delay: float

    @classmethod
    async def create(cls, client: StripeClient) -> Self:
        """Create a session at Stripe.

        Raises:
            ConnectionFailed: See ``StripeClient.get``.
            RequestFailed: See ``StripeClient.get``; or the response is no session.
        """
        form = {"device_name": platform.node() or "pipesync", "websocket_features[]": _FEATURE}
        answer = await client.post(_PATH, form, idempotency_key=str(uuid.uuid4()))
        match answer.body:
            case {
                "websocket_id": str(session_id),
                "websocket_url": str(url),
                "websocket_authorized_feature": str(feature),
                "secret": str(secret),
            } if _fits_into_a_header(session_id):
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


def _fits_into_a_header(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _seconds(delay: Any) -> float:
    is_delay = type(delay) in (int, float) and delay > 0
    return float(delay) if is_delay else _RECONNECT_DELAY
