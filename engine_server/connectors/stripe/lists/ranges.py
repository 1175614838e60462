"""Algebra of time ranges: the unread part of a window."""

import math
from collections.abc import Iterable, Sequence

import msgspec

# An object may appear in the list shortly after a page of its second was read, and clocks differ.
# So the last seconds before an earlier upper bound are read again with the next window.
SETTLING_SECONDS = 10


class Range(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Part of a list: the objects created in [gte, lt), in Unix seconds, after a cursor.

    Attributes:
        gte: Inclusive lower bound; None for no bound.
        lt: Exclusive upper bound; None for no bound.
        cursor: The next page starts after this; None starts at the newest object. It is valid only
            with the same bounds.
        compared_from: In a run that reconciles, and a list that is newest first: objects of the
            part created in this second or later are compared already.
    """

    gte: int | None = None
    lt: int | None = None
    cursor: str | None = None
    compared_from: int | None = None

    @property
    def is_bounded(self) -> bool:
        """Whether it has a filter; a range without bounds is the unfiltered list."""
        return self.gte is not None or self.lt is not None

    @property
    def is_empty(self) -> bool:
        """Whether no time lies in it."""
        return _lower(self) >= _upper(self)

    def is_later_than(self, other: "Range") -> bool:
        """Return whether it ends after the other one."""
        return _upper(self) > _upper(other)

    def with_cursor(self, cursor: str | None, compared_from: int | None = None) -> "Range":
        """Return the same range with another cursor."""
        return Range(gte=self.gte, lt=self.lt, cursor=cursor, compared_from=compared_from)

    def contains(self, created: int) -> bool:
        """Return whether an object created at this time lies in it."""
        return _lower(self) <= created < _upper(self)


def intersection(part: Range, window: Range) -> Range | None:
    """Return the part of ``part`` in ``window``; None if there is none.

    A trimmed range loses its cursor: reading some objects again is harmless, missing them is not.
    """
    gte = part.gte if _lower(part) >= _lower(window) else window.gte
    lt = part.lt if _upper(part) <= _upper(window) else window.lt
    is_cut = (gte, lt) != (part.gte, part.lt)
    result = Range(gte=gte, lt=lt) if is_cut else part
    return None if result.is_empty else result


def difference(window: Range, parts: Iterable[Range]) -> tuple[Range, ...]:
    """Return the parts of ``window`` outside ``parts``, newest first; cursors are ignored."""
    left = [] if window.is_empty else [Range(gte=window.gte, lt=window.lt)]
    for part in parts:
        left = [piece for whole in left for piece in _around(whole, part)]
    return tuple(left)


def remaining_ranges(
    accounted: Range, remaining: Sequence[Range], window: Range
) -> tuple[Range, ...]:
    """Return the ranges of ``window`` left to read, newest first.

    Args:
        accounted: The previous window.
        remaining: The unread ranges of it. A range without bounds is kept, as its position in time
            is unknown.
        window: The new window. Ranges outside it are dropped, ranges across its bounds trimmed, and
            missing ones added.
    """
    unbounded = [part for part in remaining if not part.is_bounded]
    kept = [
        inside
        for part in remaining
        if part.is_bounded and (inside := intersection(part, window)) is not None
    ]
    # A range with a cursor has passed the seconds that may still settle.
    unread = [part for part in kept if part.cursor is None]
    added = difference(window, [_settled(accounted, window), *unread])
    return (*unbounded, *sorted([*kept, *added], key=_upper, reverse=True))


def _settled(accounted: Range, window: Range) -> Range:
    """Return the part of the previous window in which no more objects can appear."""
    if accounted.lt is None or _upper(window) <= accounted.lt:
        return accounted
    return Range(gte=accounted.gte, lt=accounted.lt - SETTLING_SECONDS)


def _around(whole: Range, part: Range) -> list[Range]:
    """Return ``whole`` without ``part``, newest first."""
    if intersection(part, whole) is None:
        return [whole]
    pieces = []
    if _upper(part) < _upper(whole):
        pieces.append(Range(gte=part.lt, lt=whole.lt))
    if _lower(whole) < _lower(part):
        pieces.append(Range(gte=whole.gte, lt=part.gte))
    return pieces


def _lower(part: Range) -> float:
    return -math.inf if part.gte is None else part.gte


def _upper(part: Range) -> float:
    return math.inf if part.lt is None else part.lt
