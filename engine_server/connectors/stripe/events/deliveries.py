"""Webhook deliveries as they come in: whether they are from Stripe, and the events in them."""

from collections.abc import Iterable, Sequence

from engine_server.connectors.protocols import InputFault
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.events.event import Event, NotAnEvent
from engine_server.errors import SettingMissing
from pipesync.v1.message_pb2 import SourceInput
from pipesync_rpc.webhook_signature import SIGNATURE_HEADER, BadSignature, verify


def open_delivery(body: bytes, signature: str, secrets: Iterable[str]) -> Event:
    """The event that a delivery holds.

    Args:
        body: What was delivered, byte for byte.
        signature: The header ``Stripe-Signature``; empty when there was none.
        secrets: What Stripe may have signed it with.

    Raises:
        BadSignature: It is not shown to be from Stripe.
        NotAnEvent: It is from Stripe, and holds no event.
    """
    verify(body, signature, secrets)
    return Event.parse(body)


def check_deliveries(config: StripeConfig, inputs: Sequence[SourceInput]) -> list[InputFault]:
    """What is wrong with the deliveries among the inputs, and which inputs hold nothing.

    Raises:
        SettingMissing: There are deliveries, and no secret to verify them with.
    """
    faults = []
    for number, pushed in enumerate(inputs):
        kind = pushed.WhichOneof("input")
        if kind is None:
            faults.append(InputFault(number=number, field="", description="holds nothing"))
        if kind != "webhook":
            continue
        if not config.webhook_secrets:
            raise SettingMissing("webhook_secret", "is needed to verify webhooks (whsec_...)")
        headers = {name.lower(): value for name, value in pushed.webhook.headers.items()}
        try:
            open_delivery(
                pushed.webhook.body, headers.get(SIGNATURE_HEADER, ""), config.webhook_secrets
            )
        except BadSignature as error:
            description = f"is not shown to be from Stripe: {error}"
            faults.append(
                InputFault(number=number, field=kind, description=description, is_unverified=True)
            )
        except NotAnEvent as error:
            description = f"its body is no event: {error}"
            faults.append(InputFault(number=number, field=kind, description=description))
    return faults
