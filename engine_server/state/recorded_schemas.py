"""Text that a destination records with a checkpoint: a mark, and the stream's fields.

The mark shows whether the history before the checkpoint is being reconciled: a run that resumes
from there has to continue reconciling. The text is never empty, because a destination ignores an
empty text and keeps the last one.
"""

from dataclasses import dataclass
from typing import Self

_RECONCILING = "~"
_PLAIN = "="


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSchema:
    """Content of a recorded text.

    Attributes:
        entry: The stream's entry in ``SyncState.stream_schemas``; empty for none.
        is_reconciling: Whether the stream is being reconciled.
    """

    entry: str
    is_reconciling: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a text from ``str``; a text without a mark is only an entry."""
        entry = text[1:] if text.startswith((_RECONCILING, _PLAIN)) else text
        return cls(entry=entry, is_reconciling=text.startswith(_RECONCILING))

    def __str__(self) -> str:
        """Return the text to record."""
        return f"{_RECONCILING if self.is_reconciling else _PLAIN}{self.entry}"
