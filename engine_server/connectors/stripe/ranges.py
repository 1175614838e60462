"""The algebra of backfill ranges: what is left to read, what a new window adds to it."""

import math
from collections.abc import Iterable, Sequence

import msgspec

# An object may enter the list a moment after a page was read whose second it belongs to, and clocks
# differ. So the last seconds before a former upper bound are read again with what came after it.
SETTLING_SECONDS = 10


class Range(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Part of a list: the objects created in [gte, lt), in Unix seconds, after a cursor.

    Attributes:
        gte: Inclusive lower bound; None is no bound.
        lt: Exclusive upper bound; None is no bound.
        cursor: The page that comes next starts after this; None starts at the newest. It is only
            good with the bounds it was got with.
        compared_from: In a run that reconciles, and a list that is newest first: what was created
            in this second or later, as far as it lies in the part, is not to be compared any more.
    """

    gte: int | None = None
    lt: int | None = None
    cursor: str | None = None
    compared_from: int | None = None

    @property
    def is_bounded(self) -> bool:
        """Whether it is read with a filter; a range without bounds is the list as it is."""
        return self.gte is not None or self.lt is not None

    @property
    def is_empty(self) -> bool:
        """Whether it holds no time: nothing can lie in it."""
        return _lower(self) >= _upper(self)

    def is_later_than(self, other: "Range") -> bool:
        """Whether it ends after the other one."""
        return _upper(self) > _upper(other)

    def with_cursor(self, cursor: str | None, compared_from: int | None = None) -> "Range":
        """The same part, to be gone on with elsewhere."""
        return Range(gte=self.gte, lt=self.lt, cursor=cursor, compared_from=compared_from)

    def contains(self, created: int) -> bool:
        """Whether an object created then lies in it."""
        return _lower(self) <= created < _upper(self)


def intersection(part: Range, window: Range) -> Range | None:
    """What of ``part`` lies in ``window``; None when nothing does.

    A part that is cut loses its cursor: reading a little again is harmless, missing it is not.
    """
    gte = part.gte if _lower(part) >= _lower(window) else window.gte
    lt = part.lt if _upper(part) <= _upper(window) else window.lt
    is_cut = (gte, lt) != (part.gte, part.lt)
    result = Range(gte=gte, lt=lt) if is_cut else part
    return None if result.is_empty else result


def difference(window: Range, parts: Iterable[Range]) -> tuple[Range, ...]:
    """What of ``window`` lies in none of ``parts``, newest first; cursors play no role."""
    left = [] if window.is_empty else [Range(gte=window.gte, lt=window.lt)]
    for part in parts:
        left = [piece for whole in left for piece in _around(whole, part)]
    return tuple(left)


def reconcile(accounted: Range, remaining: Sequence[Range], window: Range) -> tuple[Range, ...]:
    """What is left to read of ``window``, newest first.

    Args:
        accounted: The window that was asked before.
        remaining: What was left of it. A range without bounds is kept as it is: it does not know
            where in time it stands.
        window: The window that is asked now. What was left outside of it is dropped, what lies
            across its border is trimmed, and what was never asked is added.
    """
    unbounded = [part for part in remaining if not part.is_bounded]
    kept = [
        inside
        for part in remaining
        if part.is_bounded and (inside := intersection(part, window)) is not None
    ]
    # A part with a cursor has passed the seconds that may still settle.
    unread = [part for part in kept if part.cursor is None]
    added = difference(window, [_settled(accounted, window), *unread])
    return (*unbounded, *sorted([*kept, *added], key=_upper, reverse=True))


def _settled(accounted: Range, window: Range) -> Range:
    """What of the former window nothing can be added to any more."""
    if accounted.lt is None or _upper(window) <= accounted.lt:
        return accounted
    return Range(gte=accounted.gte, lt=accounted.lt - SETTLING_SECONDS)


def _around(whole: Range, part: Range) -> list[Range]:
    """``whole`` without ``part``, newest first."""
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
