"""Retrieval of objects that a destination holds and a list does not show."""

import asyncio
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.api.exchange import ApiResponse
from engine_server.connectors.stripe.catalog.streams import Resource
from engine_server.connectors.stripe.lists.nested_lists import records_to_emit
from engine_server.connectors.stripe.records import RecordMetadata, record_of

_AT_ONCE = 8
# After this many failures in a row, the next retrieval would probably fail, too.
_MOST_FAILURES = 10

# Disconnected accounts are refused instead (https://docs.stripe.com/error-codes).
_ACCOUNTS_PATH = "/v1/accounts"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRecord:
    """A record that the destination holds.

    Attributes:
        id: The id of the object.
        owner: The id of the object whose list it is an item of; empty if it is in no such list.
        created: The creation time in Unix seconds; None if unknown.
    """

    id: str
    owner: str = ""
    created: int | None = None


class Retrieval:
    """Retrieves objects of one stream one by one, some concurrently.

    Attributes:
        deleted: The number of objects deleted at Stripe.
        found: The number of objects that exist although no list shows them.
        failed: The number of objects with an unknown state.
        error: The first error among these.
    """

    def __init__(self, client: StripeClient, resource: Resource, account_id: str) -> None:
        """Store the arguments; ``account_id`` becomes part of the records."""
        self.deleted = self.found = self.failed = 0
        self.error = ""
        self._client = client
        # The retrieved object is the record itself, even if it is listed inside another one.
        self._resource = dataclasses.replace(resource, nested_field="")
        self._account_id = account_id
        self._failed_in_a_row = 0

    @property
    def is_given_up(self) -> bool:
        """Whether too many retrievals failed to continue."""
        return self._failed_in_a_row >= _MOST_FAILURES

    async def records(self, missing: Sequence[HeldRecord]) -> list[bytes]:
        """Return the current records of the objects; deleted ones have ``deleted`` set.

        Objects with an unknown state have no record.

        Raises:
            ConnectionFailed: See ``StripeClient.get``.
        """
        remaining = list(reversed(missing))
        records: list[bytes] = []

        async def work() -> None:
            while remaining and not self.is_given_up:
                held = remaining.pop()
                try:
                    records.append(await self._record(held))
                except RequestFailed as error:
                    self.failed += 1
                    self._failed_in_a_row += 1
                    self.error = self.error or error.message
                else:
                    self._failed_in_a_row = 0

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(_AT_ONCE, self._client.useful_concurrency(), len(remaining))):
                    workers.create_task(work())
        except ExceptionGroup as errors:
            # The first failure cancelled the other tasks.
            raise errors.exceptions[0] from None
        self.failed += len(remaining)
        return records

    async def _record(self, held: HeldRecord) -> bytes:
        answer = await self._retrieve(held)
        if answer is None or answer.body.get("deleted") is True:
            self.deleted += 1
            fields = {"id": held.id, "deleted": True} if answer is None else answer.body
            now = int(self._client.clock.earliest())
            return record_of(fields, account_id=self._account_id, created=now)
        [record] = await records_to_emit(self._client, self._resource, [answer.body])
        self.found += 1
        metadata = RecordMetadata(account_id=self._account_id, known_until=answer.known_until)
        return metadata.add_to_object(record)

    async def _retrieve(self, held: HeldRecord) -> ApiResponse[dict[str, Any]] | None:
        """Return the object; None if Stripe itself says that the id does not exist."""
        path = self._path(held)
        endpoint = f"{self._resource.record_path}/:id"
        try:
            answer = await self._client.get(path, {}, endpoint=endpoint)
        except RequestFailed as error:
            is_account = self._resource.path == _ACCOUNTS_PATH
            if error.shows_deleted or (is_account and error.shows_disconnected(held.id)):
                return None
            raise
        if not isinstance(answer.body, dict) or answer.body.get("id") != held.id:
            raise RequestFailed(f"GET {path} was not answered with that object", status=200)
        return answer

    def _path(self, held: HeldRecord) -> str:
        if held.id in ("", ".", ".."):
            # Users choose some ids; these would lead to another URL.
            raise RequestFailed(f"{held.id!r} cannot be retrieved by its id", status=None)
        path = self._resource.record_path.replace("{id}", quote(held.owner, safe=""))
        return f"{path}/{quote(held.id, safe='')}"
