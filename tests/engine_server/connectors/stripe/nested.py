"""Objects with lists inside, of which the simulator serves the rest."""

from collections.abc import Sequence
from typing import Any

from engine_server.connectors.stripe.catalog import load_resources
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.nested_lists import records_to_emit
from tests.stripe_simulator.simulator import StripeSimulator

Document = dict[str, Any]


def lines_url(invoice_id: str) -> str:
    """Where an invoice's lines are listed."""
    return f"/v1/invoices/{invoice_id}/lines"


def items_url(subscription_id: str) -> str:
    """Where a subscription's items are listed."""
    return f"/v1/subscription_items?subscription={subscription_id}"


def numbered(prefix: str, count: int, first: int = 0) -> list[Document]:
    """Items ``<prefix>0``, ``<prefix>1``, ..."""
    return [{"id": f"{prefix}{number}"} for number in range(first, first + count)]


def invoice(
    simulator: StripeSimulator, lines: int, invoice_id: str = "in_1", created: int = 1_700_000_000
) -> Document:
    """An invoice with so many lines, as a page would carry it."""
    nested = simulator.nest(lines_url(invoice_id), numbered(f"il_{invoice_id}_", lines))
    return {"id": invoice_id, "object": "invoice", "created": created, "lines": nested}


def subscription(
    simulator: StripeSimulator,
    items: int,
    subscription_id: str = "sub_1",
    created: int = 1_700_000_000,
) -> Document:
    """A subscription with so many items, as a page would carry it."""
    nested = simulator.nest(items_url(subscription_id), numbered(f"si_{subscription_id}_", items))
    return {"id": subscription_id, "object": "subscription", "created": created, "items": nested}


async def records(
    client: StripeClient, listed: Sequence[Document], stream: str = "invoices"
) -> list[Document]:
    """What a page with these objects makes of the stream."""
    return await records_to_emit(client, load_resources()[stream], listed)


def ids(items: Sequence[Document]) -> list[str]:
    """Their ids in order."""
    return [item["id"] for item in items]
