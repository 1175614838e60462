"""Comparison of the tables with the account: every row, every field, and the marks of deleted ones.

Only two kinds of objects may differ: those whose latest event is a dead letter, and those whose
latest version is listed as rejected. Each listed record must be refused by its table, and no other
record may be listed.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import asyncpg

from engine_server import exact_json
from tests.end_to_end.tables import documents
from tests.soak.business import STREAMS, Business, Document
from tests.soak.oddities import is_refused, storable
from tests.stripe_simulator.simulator import StripeSimulator

_STAMPS = ("_account_id", "_updated_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Row and rejected record of one object.

    Attributes:
        row: Its row; None when there is none.
        rejected: The record of it that is listed as rejected; None when none is.
    """

    row: Document | None
    rejected: Document | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Completeness of the events that the tables were given.

    Attributes:
        every_event: Whether every event arrived. If not, a deleted object may have no row, or one
            of an earlier version; its row, if there is one, is marked.
        whole_deletions: Whether deletions arrived with the whole object, and not with its id alone.
        dead_letters: The ids of the dead-lettered events.
    """

    every_event: bool = True
    whole_deletions: bool = True
    dead_letters: Collection[str] = ()


async def differences(
    simulator: StripeSimulator,
    business: Business,
    database_url: str,
    told: Told,
    *,
    schema: str = "stripe",
) -> list[str]:
    """Return one line for each object whose row is wrong; none when all rows are right.

    Args:
        simulator: The account.
        business: The changes to the account.
        database_url: The database of the tables.
        told: The completeness of the events that the tables were given.
        schema: The schema of the tables.
    """
    found: list[str] = []
    rejected = await rejected_records(database_url, schema=schema)
    for stream in STREAMS:
        rows = await documents(database_url, stream, schema=schema)
        by_id = {row["id"]: row for row in rows}
        if len(by_id) != len(rows):
            found.append(f"{stream}: {len(rows) - len(by_id)} rows are there twice")
        current = {
            document["id"]: storable(document) for document in simulator.objects(stream).documents()
        }
        listed = rejected.get(stream, {})
        gone = business.gone[stream]
        for object_id in sorted(current.keys() | gone.keys() | by_id.keys() | listed.keys()):
            stored = Stored(row=by_id.get(object_id), rejected=listed.get(object_id))
            fate = _Fate(business, stream, object_id, told)
            if object_id in current:
                line = fate.of_current(current[object_id], stored)
            elif object_id in gone:
                line = fate.of_gone(storable(gone[object_id]), stored)
            else:
                line = "is none of the account's objects"
            found += [f"{stream} {object_id}: {line}"] if line else []
    return found


async def rejected_records(
    database_url: str, *, schema: str = "stripe"
) -> Mapping[str, Mapping[str, Document]]:
    """Return the records listed as rejected, by stream and id, without their annotations."""
    connection = await asyncpg.connect(database_url)
    try:
        entries = await connection.fetch(
            f'SELECT stream, key, record FROM "{schema}"._pipesync_rejected'  # noqa: S608 - names of our own
        )
    finally:
        await connection.close()
    found: dict[str, dict[str, Document]] = {}
    for entry in entries:
        record = storable(exact_json.decode(entry["record"]))
        of_stream = found.setdefault(entry["stream"], {})
        assert entry["key"][0] not in of_stream, "a key is listed twice"
        of_stream[entry["key"][0]] = {
            name: value for name, value in record.items() if name not in _STAMPS
        }
    return found


class _Fate:
    """Permitted rows and rejected records of one object."""

    def __init__(self, business: Business, stream: str, object_id: str, told: Told) -> None:
        self._stream = stream
        self._told = told
        self._is_initial = (stream, object_id) in business.initial
        self._versions = [storable(one) for one in business.versions[stream, object_id]]
        events = business.events[stream, object_id]
        self._is_unheard = bool(events) and events[-1] in told.dead_letters

    def of_current(self, current: Document, stored: Stored) -> str:
        """Return the difference of an object that exists; empty when there is none."""
        row, rejected = stored.row, stored.rejected
        taken = [one for one in self._versions if not is_refused(self._stream, one)]
        if self._is_unheard:
            if rejected is not None and rejected not in self._versions:
                return "is listed as rejected as it never was"
            return self._never(row) if row is not None and row not in taken else ""
        if not is_refused(self._stream, current):
            return "is listed as rejected" if rejected is not None else _difference(current, row)
        if rejected != current:
            return f"is refused, but listed as {rejected}"
        return self._never(row) if row is not None and row not in taken else ""

    def of_gone(self, last: Document, stored: Stored) -> str:
        """Return the difference of a deleted object; empty when there is none."""
        row, rejected = stored.row, stored.rejected
        marked = [{**one, "deleted": True} for one in (*self._versions, last)]
        bare = {"id": last["id"], "object": last["object"], "deleted": True}
        if rejected is not None:
            # No deletion of it was applied, or none was delivered.
            if not is_refused(self._stream, rejected):
                return "is listed as rejected, though it is not refused"
            if self._told.every_event and not self._is_unheard and rejected not in marked:
                return "is listed as it was before it was deleted"
            # A change that was looked up after the deletion shows it as deleted, too.
            if row is None or row in (*marked, *self._versions, bare):
                return ""
            return self._never(row)
        if self._is_unheard and (row is None or row in self._versions):
            return ""
        if row is None and not self._told.every_event:
            return ""
        if self._told.every_event and self._told.whole_deletions and not self._is_unheard:
            return _difference({**last, "deleted": True}, row)
        if row is None:
            # An item that was created and deleted between two look-ups.
            is_unseen = self._stream == "subscription_items" and not self._is_initial
            return "" if is_unseen else "has no row"
        if row.get("deleted") is not True:
            return "is not marked as deleted"
        return "" if row in marked or row == bare else self._never(row)

    def _never(self, row: Document) -> str:
        return f"is as it never was: {_difference(self._versions[-1], row)}"


def _difference(expected: Document, row: Document | None) -> str:
    if row is None:
        return "has no row"
    if row == expected:
        return ""
    fields = sorted(
        name for name in expected.keys() | row.keys() if expected.get(name) != row.get(name)
    )
    told = (f"{name} is {row.get(name)!r}, not {expected.get(name)!r}" for name in fields)
    return "; ".join(told)[:500]
