"""Tables compared with the account: row for row, field for field, deleted ones marked."""

from collections.abc import Mapping

from tests.end_to_end.tables import documents
from tests.soak.business import STREAMS, Document
from tests.stripe_simulator.simulator import StripeSimulator


async def differences(
    simulator: StripeSimulator,
    gone: Mapping[str, Mapping[str, Document]],
    database_url: str,
    *,
    schema: str = "stripe",
    all_was_told: bool = True,
) -> list[str]:
    """One line for each object whose row is not what it should be; none when all are.

    Args:
        simulator: The account.
        gone: What was deleted there.
        database_url: Where the tables are.
        schema: Their schema.
        all_was_told: Whether every event came. If not, what was deleted may never have come, or not
            as it was last: but its row, if there is one, is marked.
    """
    found: list[str] = []
    for stream in STREAMS:
        rows = await documents(database_url, stream, schema=schema)
        by_id = {row["id"]: row for row in rows}
        if len(by_id) != len(rows):
            found.append(f"{stream}: {len(rows) - len(by_id)} rows are there twice")
        expected = {document["id"]: document for document in simulator.objects(stream).documents()}
        for object_id, document in gone[stream].items():
            row = by_id.get(object_id)
            if all_was_told:
                expected[object_id] = {**document, "deleted": True}
            elif row is not None:
                expected[object_id] = {**row, "deleted": True}
        for object_id in sorted(expected.keys() | by_id.keys()):
            line = _difference(expected.get(object_id), by_id.get(object_id))
            found += [f"{stream} {object_id}: {line}"] if line else []
    return found


def _difference(expected: Document | None, row: Document | None) -> str:
    if row is None:
        return "has no row"
    if expected is None:
        return "is none of the account's objects"
    if row == expected:
        return ""
    fields = sorted(
        name for name in expected.keys() | row.keys() if expected.get(name) != row.get(name)
    )
    told = (f"{name} is {row.get(name)!r}, not {expected.get(name)!r}" for name in fields)
    return "; ".join(told)[:500]
