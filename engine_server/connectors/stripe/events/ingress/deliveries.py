"""Verification of webhook deliveries, and the events in them."""

from collections.abc import Iterable, Sequence

from engine_server.connectors.protocols import InputFault
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.events.event import EventHead, NotAnEvent, refuse_large
from engine_server.errors import SettingMissing
from pipesync.v1.message_pb2 import SourceInput
from pipesync_server.webhook_signature import SIGNATURE_HEADER, BadSignature, verify


def open_delivery(body: bytes, signature: str, secrets: Iterable[str]) -> EventHead:
    """Return what identifies the event of a delivery.

    Args:
        body: The body, unchanged.
        signature: The header ``Stripe-Signature``; empty if absent.
        secrets: The secrets that Stripe may have signed it with.

    Raises:
        BadSignature: The delivery is not verified to be from Stripe.
        EventTooLarge: The delivery is from Stripe, but its event has too many values.
        NotAnEvent: The delivery is from Stripe, but holds no event.
    """
    verify(body, signature, secrets)
    head = EventHead.parse(body)
    refuse_large(body)
    return head


def check_deliveries(config: StripeConfig, inputs: Sequence[SourceInput]) -> list[InputFault]:
    """Return the faults of the deliveries among the inputs, and of empty inputs.

    Raises:
        SettingMissing: There are deliveries, but no secret to verify them with.
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
