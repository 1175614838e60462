"""Rows on their way to a table: records that nobody reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(slots=True)
class StreamRows:
    """The rows of one stream.

    Attributes:
        records: A JSON object in UTF-8 each, in the order of arrival.
        are_changes: Whether some are as ``RecordBatch.are_changes`` says. It does no harm to the
            others: at the worst a row that is equal is written again, with its later time.
    """

    records: list[bytes] = field(default_factory=list)
    are_changes: bool = False


# By stream.
Rows: TypeAlias = Mapping[str, StreamRows]
