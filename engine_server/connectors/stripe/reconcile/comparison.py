"""Compares one stream, page by page, with what the destination holds of it."""

import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from engine_server.connectors.protocols import Inventory, SelectedStream
from engine_server.connectors.record_message import record_message
from engine_server.connectors.stripe.catalog import Resource
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.reconcile.listing import Listing
from engine_server.connectors.stripe.reconcile.retrieval import Held, Retrieval
from engine_server.connectors.stripe.reconcile.windows import Windows
from engine_server.connectors.stripe.stream_fetch import FetchedPage
from pipesync.v1.message_pb2 import Message

log = structlog.get_logger()

# Objects that are retrieved before what became of them is passed on.
_RETRIEVED_TOGETHER = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """A window is compared in part.

    Attributes:
        compared_from: From this second on.
    """

    compared_from: int


class Comparison:
    """What the destination holds of a stream, and Stripe does not show."""

    def __init__(
        self,
        client: StripeClient,
        inventory: Inventory,
        selected: SelectedStream,
        resource: Resource,
        account_id: str,
    ) -> None:
        """Asks for nothing yet.

        Args:
            client: The way to Stripe.
            inventory: What the destination holds.
            selected: The stream.
            resource: How it is listed.
            account_id: The account whose records are compared.
        """
        self._inventory = inventory
        self._stream = selected.name
        self._parent_field = resource.parent_field
        self._account_id = account_id
        self._windows = Windows(by_time=bool(selected.stream.time_range_field))
        self._retrieval = Retrieval(client, resource, account_id)
        wanted = selected.selection.fields
        # Held records that do not name their parent cannot be compared.
        self._is_possible = (
            not resource.parent_field or not wanted or resource.parent_field in wanted
        )

    async def after(self, page: FetchedPage) -> AsyncGenerator[Message | Reached, None]:
        """Yields records of what the page shows to be missing: each as Stripe has it now.

        Where much is missing, it tells in between how far it has come.

        Raises:
            ConnectionFailed: see ``StripeClient.get``, and ``Inventory``.
            ConnectorError: see ``Inventory``.
        """
        if page.listing is None or not self._is_possible:
            return
        began = page.part.compared_from
        compared_from = math.inf if began is None else began
        retrieved = 0
        async with aclosing(self._missing(page, page.listing)) as found:
            async for missing in found:
                for start in range(0, len(missing), _RETRIEVED_TOGETHER):
                    some = missing[start : start + _RETRIEVED_TOGETHER]
                    if records := await self._retrieval.records(some):
                        yield record_message(self._stream, records)
                    retrieved += len(some)
                    # More of its second may follow.
                    reached = math.inf if some[-1].created is None else some[-1].created + 1
                    if retrieved >= _RETRIEVED_TOGETHER and reached < compared_from:
                        retrieved, compared_from = 0, reached
                        yield Reached(compared_from=int(reached))

    def tell(self) -> None:
        """Logs what came of it, and what could not be compared."""
        done = self._retrieval
        if done.gone or done.found:
            log.info("reconciled", stream=self._stream, deleted=done.gone, not_listed=done.found)
        if done.failed:
            log.warning(
                "reconcile_unverified", stream=self._stream, objects=done.failed, error=done.error
            )
        if self._windows.has_gaps or not self._is_possible:
            reason = (
                "an earlier request read the beginning of the list, which has no order by time"
                if self._is_possible
                else f"the field {self._parent_field} is not selected"
            )
            log.warning("reconcile_incomplete", stream=self._stream, reason=reason)

    async def _missing(
        self, page: FetchedPage, listing: Listing
    ) -> AsyncGenerator[Sequence[Held], None]:
        if self._parent_field:
            held = await self._inventory.belonging_to(
                self._stream, self._parent_field, listing.owners, account_id=self._account_id
            )
            yield [
                Held(id=object_id, owner=owner)
                for owner, object_id in held
                if object_id not in listing.created
            ]
            return
        window = self._windows.after(page.part, page.left, listing)
        if window is None:
            return
        ids = self._inventory.created_in(
            self._stream, window.gte, window.lt, account_id=self._account_id
        )
        async with aclosing(ids) as held_ids:
            async for some in held_ids:
                yield [
                    Held(id=one, created=created)
                    for one, created in some.items()
                    if one not in window.listed
                ]
