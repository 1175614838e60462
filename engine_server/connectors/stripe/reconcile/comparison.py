"""Comparison of one stream, page by page, with the destination's records."""

import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from engine_server.connectors.protocols import SelectedStream, StoredRows
from engine_server.connectors.record_message import record_message
from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.catalog.streams import Resource
from engine_server.connectors.stripe.lists.fetched_page import FetchedPage, Listing
from engine_server.connectors.stripe.reconcile.retrieval import HeldRecord, Retrieval
from engine_server.connectors.stripe.reconcile.windows import Windows
from pipesync.v1.message_pb2 import Message

_log = structlog.get_logger(__name__)

# Objects retrieved before the progress is reported.
_RETRIEVED_TOGETHER = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """Progress within a window.

    Attributes:
        compared_from: The window is compared from this second on.
    """

    compared_from: int


class Comparison:
    """Finds the records of one stream that the destination holds and Stripe does not list."""

    def __init__(
        self,
        client: StripeClient,
        stored_rows: StoredRows,
        selected: SelectedStream,
        resource: Resource,
        account_id: str,
    ) -> None:
        """Store the arguments; no query runs yet.

        Args:
            client: Sends the requests.
            stored_rows: Rows that the destination holds.
            selected: The stream.
            resource: How the stream is listed.
            account_id: The account whose records are compared.
        """
        self._stored_rows = stored_rows
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
        """Yield the current records of objects that the page shows to be missing.

        If there are many, the progress is yielded in between.

        Raises:
            ConnectionFailed: See ``StripeClient.get`` and ``StoredRows``.
            ConnectorError: See ``StoredRows``.
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
                    # The next objects may be of the same second.
                    reached = math.inf if some[-1].created is None else some[-1].created + 1
                    if retrieved >= _RETRIEVED_TOGETHER and reached < compared_from:
                        retrieved, compared_from = 0, reached
                        yield Reached(compared_from=int(reached))

    def log_result(self) -> None:
        """Log the result, and the parts that could not be compared."""
        done = self._retrieval
        if done.deleted or done.found:
            _log.info(
                "reconciled", stream=self._stream, deleted=done.deleted, not_listed=done.found
            )
        if done.failed:
            _log.warning(
                "reconcile_unverified", stream=self._stream, objects=done.failed, error=done.error
            )
        if self._windows.has_gaps or not self._is_possible:
            reason = (
                "an earlier request read the beginning of the list, which has no order by time"
                if self._is_possible
                else f"the field {self._parent_field} is not selected"
            )
            _log.warning("reconcile_incomplete", stream=self._stream, reason=reason)

    async def _missing(
        self, page: FetchedPage, listing: Listing
    ) -> AsyncGenerator[Sequence[HeldRecord], None]:
        if self._parent_field:
            held = await self._stored_rows.belonging_to(
                self._stream, self._parent_field, listing.owners, account_id=self._account_id
            )
            yield [
                HeldRecord(id=object_id, owner=owner)
                for owner, object_id in held
                if object_id not in listing.created
            ]
            return
        window = self._windows.after(page.part, page.left, listing)
        if window is None:
            return
        ids = self._stored_rows.created_in(
            self._stream, window.gte, window.lt, account_id=self._account_id
        )
        async with aclosing(ids) as held_ids:
            async for some in held_ids:
                yield [
                    HeldRecord(id=one, created=created)
                    for one, created in some.items()
                    if one not in window.listed
                ]
