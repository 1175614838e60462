"""Objects with lists inside, whose rest the simulator serves."""

from collections.abc import Sequence
from typing import Any

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.catalog.streams import load_resources
from engine_server.connectors.stripe.lists.nested_lists import records_to_emit
from tests.stripe_simulator.simulator import StripeSimulator

Document = dict[str, Any]


def lines_url(invoice_id: str) -> str:
    """Return the URL of an invoice's lines."""
    return f"/v1/invoices/{invoice_id}/lines"


def items_url(subscription_id: str) -> str:
    """Return the URL of a subscription's items."""
    return f"/v1/subscription_items?subscription={subscription_id}"


def numbered(prefix: str, count: int, first: int = 0) -> list[Document]:
    """Return items ``<prefix>0``, ``<prefix>1``, ..."""
    return [{"id": f"{prefix}{number}"} for number in range(first, first + count)]


def invoice(
    simulator: StripeSimulator, lines: int, invoice_id: str = "in_1", created: int = 1_700_000_000
) -> Document:
    """Return an invoice with this many lines, as in a page."""
    nested = simulator.nest(lines_url(invoice_id), numbered(f"il_{invoice_id}_", lines))
    return {"id": invoice_id, "object": "invoice", "created": created, "lines": nested}


def subscription(
    simulator: StripeSimulator,
    items: int,
    subscription_id: str = "sub_1",
    created: int = 1_700_000_000,
) -> Document:
    """Return a subscription with this many items, as in a page."""
    nested = simulator.nest(items_url(subscription_id), numbered(f"si_{subscription_id}_", items))
    return {"id": subscription_id, "object": "subscription", "created": created, "items": nested}


async def records(
    client: StripeClient, listed: Sequence[Document], stream: str = "invoices"
) -> list[Document]:
    """Return the records that the stream makes of a page with these objects."""
    return await records_to_emit(client, load_resources()[stream], listed)


def ids(items: Sequence[Document]) -> list[str]:
    """Return the ids in order."""
    return [item["id"] for item in items]
