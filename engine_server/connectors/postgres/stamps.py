"""The stamps at the end of records, which are stored as columns of their own."""

import re
from collections.abc import Sequence

# An object that ends so ends in two fields of its own: quotation marks that nothing escapes begin
# and end all four strings, whatever comes before.
_STAMPS = re.compile(
    rb',"_account_id":"([ !#-\[\]-~]+)","_updated_at":(0|[1-9][0-9]{0,17})\}',
)
_BEGIN = b',"_account_id":'


def lift_stamps(records: Sequence[bytes]) -> tuple[list[bytes], list[str], list[str]]:
    """The records without the stamps that they end in, and the stamps.

    Postgres takes far longer to take a field out of an object. It does so nevertheless where a
    record is written in another way than ours: what is not recognized here stays where it is.

    Args:
        records: JSON objects in UTF-8.

    Returns:
        The objects but for their closing brackets, the ``_account_id`` of each and its
        ``_updated_at``, as words. Empty for what the object itself still has, or has not at all.
    """
    objects: list[bytes] = []
    account_ids: list[str] = []
    updated_ats: list[str] = []
    # Those of one answer all end alike.
    end, account_id, updated_at = b"", "", ""
    for record in records:
        if not (end and record.endswith(end)):
            stamps = _STAMPS.fullmatch(record, max(0, record.rfind(_BEGIN)))
            if stamps is None:
                objects.append(_without_bracket(record))
                account_ids.append("")
                updated_ats.append("")
                continue
            end, account_id, updated_at = stamps[0], stamps[1].decode(), stamps[2].decode()
        objects.append(record[: -len(end)])
        account_ids.append(account_id)
        updated_ats.append(updated_at)
    return objects, account_ids, updated_ats


def with_stamps(text: bytes, account_id: str, updated_at: str) -> bytes:
    """The record that ``lift_stamps`` made these three of."""
    if not account_id:
        # What lacked the bracket lacks it again.
        return text[:-1] if text.endswith(b",") else text + b"}"
    return b'%b,"_account_id":"%b","_updated_at":%b}' % (
        text,
        account_id.encode(),
        updated_at.encode(),
    )


def _without_bracket(record: bytes) -> bytes:
    text = record.rstrip()
    # What lacks the bracket is no object, and must not become one by getting it.
    return text[:-1] if text.endswith(b"}") else record + b","
