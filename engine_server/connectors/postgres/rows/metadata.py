"""Metadata at the end of records, which is stored in columns of its own."""

import re
from collections.abc import Sequence

# A match at the end of an object is two fields of that object: unescaped quotation marks begin and
# end all four strings, after any text.
_METADATA = re.compile(
    rb',"_account_id":"([ !#-\[\]-~]+)","_updated_at":(0|[1-9][0-9]{0,17})\}',
)
_BEGIN = b',"_account_id":'


def extract_metadata(records: Sequence[bytes]) -> tuple[list[bytes], list[str], list[str]]:
    """Split records into objects without the metadata at their end, and the metadata.

    Postgres takes far longer to remove a field from an object. It still does so for a record in
    another notation: metadata that is not recognized here stays in the object.

    Args:
        records: JSON objects in UTF-8.

    Returns:
        The objects without their closing brackets, and the ``_account_id`` and ``_updated_at`` of
        each as text: empty where the object still has them, or has none.
    """
    objects: list[bytes] = []
    account_ids: list[str] = []
    updated_ats: list[str] = []
    # The records of one page mostly end alike.
    end, account_id, updated_at = b"", "", ""
    for record in records:
        if not (end and record.endswith(end)):
            match = _METADATA.fullmatch(record, max(0, record.rfind(_BEGIN)))
            if match is None:
                objects.append(_without_bracket(record))
                account_ids.append("")
                updated_ats.append("")
                continue
            end, account_id, updated_at = match[0], match[1].decode(), match[2].decode()
        objects.append(record[: -len(end)])
        account_ids.append(account_id)
        updated_ats.append(updated_at)
    return objects, account_ids, updated_ats


def with_metadata(text: bytes, account_id: str, updated_at: str) -> bytes:
    """Return the record that ``extract_metadata`` split into these three."""
    if not account_id:
        # A record without the bracket is restored without it.
        return text[:-1] if text.endswith(b",") else text + b"}"
    return b'%b,"_account_id":"%b","_updated_at":%b}' % (
        text,
        account_id.encode(),
        updated_at.encode(),
    )


def _without_bracket(record: bytes) -> bytes:
    text = record.rstrip()
    # A record without the bracket is no object, and must not become one by getting it.
    return text[:-1] if text.endswith(b"}") else record + b","
