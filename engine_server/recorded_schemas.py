"""The text that a destination records beside a checkpoint: a stream's fields, and a mark.

The mark says whether the history that the checkpoint accounts for is being compared with what the
destination holds: a run that goes on from there has to go on comparing. It is never empty, since a
destination keeps the last text that is not.
"""

from dataclasses import dataclass
from typing import Self

_RECONCILING = "~"
_PLAIN = "="


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSchema:
    """One such text.

    Attributes:
        entry: The stream's entry in ``SyncState.stream_schemas``; empty for none.
        is_reconciling: Whether what is read is compared.
    """

    entry: str
    is_reconciling: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what ``str`` wrote; a text without a mark is an entry alone."""
        entry = text[1:] if text.startswith((_RECONCILING, _PLAIN)) else text
        return cls(entry=entry, is_reconciling=text.startswith(_RECONCILING))

    def __str__(self) -> str:
        """The text to record."""
        return f"{_RECONCILING if self.is_reconciling else _PLAIN}{self.entry}"
