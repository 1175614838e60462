"""Asks Stripe for objects that a destination holds and a list did not show."""

import asyncio
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from engine_server.connectors.stripe.catalog import Resource
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.errors import RequestFailed
from engine_server.connectors.stripe.events.records import record_of
from engine_server.connectors.stripe.nested_lists import records_to_emit
from engine_server.connectors.stripe.records import Stamps
from engine_server.connectors.stripe.transport import Answer

_AT_ONCE = 8
# So many in a row, and nothing speaks for the next one.
_MOST_FAILURES = 10

# Accounts that are connected no more are refused instead (https://docs.stripe.com/error-codes).
_ACCOUNTS_PATH = "/v1/accounts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A record that the destination holds.

    Attributes:
        id: Its id.
        owner: The id of the object whose list it is an item of; empty when it is in no such list.
        created: When it was made, in Unix seconds; None when that is not known.
    """

    id: str
    owner: str = ""
    created: int | None = None


class Retrieval:
    """The objects of one stream, retrieved one by one, some side by side.

    Attributes:
        gone: How many Stripe has no more.
        found: How many it has, though no list shows them.
        failed: Of how many it did not say.
        error: What it said of the first of these.
    """

    def __init__(self, client: StripeClient, resource: Resource, account_id: str) -> None:
        """``account_id`` is what the records are stamped with."""
        self.gone = self.found = self.failed = 0
        self.error = ""
        self._client = client
        # What is retrieved is a record itself, whatever it is listed in.
        self._resource = dataclasses.replace(resource, nested_field="")
        self._account_id = account_id
        self._failed_in_a_row = 0

    @property
    def is_given_up(self) -> bool:
        """Whether so many failed that no more are asked for."""
        return self._failed_in_a_row >= _MOST_FAILURES

    async def records(self, missing: Sequence[Held]) -> list[bytes]:
        """What the objects are now, as records: those that are gone say ``deleted``.

        None comes of one of which Stripe does not say.

        Raises:
            ConnectionFailed: see ``StripeClient.get``.
        """
        waiting = list(reversed(missing))
        records: list[bytes] = []

        async def work() -> None:
            while waiting and not self.is_given_up:
                held = waiting.pop()
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
                for _ in range(min(_AT_ONCE, self._client.useful_concurrency(), len(waiting))):
                    workers.create_task(work())
        except ExceptionGroup as errors:
            # The first one ended the others.
            raise errors.exceptions[0] from None
        self.failed += len(waiting)
        return records

    async def _record(self, held: Held) -> bytes:
        answer = await self._retrieve(held)
        if answer is None or answer.body.get("deleted") is True:
            self.gone += 1
            fields = {"id": held.id, "deleted": True} if answer is None else answer.body
            now = int(self._client.clock.earliest())
            return record_of(fields, account_id=self._account_id, created=now)
        [record] = await records_to_emit(self._client, self._resource, [answer.body])
        self.found += 1
        stamps = Stamps(account_id=self._account_id, known_until=answer.known_until)
        return stamps.on_object(record)

    async def _retrieve(self, held: Held) -> Answer[dict[str, Any]] | None:
        """The object; None when Stripe says itself that there is none of that id."""
        path = self._path(held)
        endpoint = f"{self._resource.record_path}/:id"
        try:
            answer = await self._client.get(path, {}, endpoint=endpoint)
        except RequestFailed as error:
            is_account = self._resource.path == _ACCOUNTS_PATH
            if error.shows_gone or (is_account and error.shows_disconnected(held.id)):
                return None
            raise
        if not isinstance(answer.body, dict) or answer.body.get("id") != held.id:
            raise RequestFailed(f"GET {path} was not answered with that object", status=200)
        return answer

    def _path(self, held: Held) -> str:
        if held.id in ("", ".", ".."):
            # People choose some ids; this one would lead elsewhere.
            raise RequestFailed(f"{held.id!r} cannot be retrieved by its id", status=None)
        path = self._resource.record_path.replace("{id}", quote(held.owner, safe=""))
        return f"{path}/{quote(held.id, safe='')}"
