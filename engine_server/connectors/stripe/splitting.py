"""Where a range is cut so that its parts can be read side by side."""

from engine_server.connectors.stripe.ranges import Range

# Stripe took its first payment in 2011: where a range without a lower bound is taken to begin when
# its size is guessed. Nothing older is lost by it: the oldest part keeps no lower bound.
_NOTHING_BEFORE = 1_293_840_000

# Every part ends with a page that is not full, so a part of fewer pages is not worth its request.
_FEWEST_PAGES = 10
# The density seen on one page does not hold for ever.
_MOST_PAGES = 50


def split(rest: Range, *, newest: int, oldest: int, parts: int) -> tuple[Range, ...]:
    """Cuts what is left of a range after a page, newest part first.

    The first part goes on from the cursor: it keeps the upper bound, and the cursor's own object
    lies within it, so the cursor stays good. Several objects of its second are then no matter.

    Args:
        rest: What is left; its cursor is the last object of the page.
        newest: When the first object of the page was created.
        oldest: When the last one was, which is within ``rest``.
        parts: How many parts are wanted.

    Returns:
        At most ``parts`` ranges that cover ``rest``; ``rest`` alone when it is too thin.
    """
    lower = min(_NOTHING_BEFORE if rest.gte is None else rest.gte, oldest)
    page_seconds = max(newest - oldest, 1)
    pages = (oldest - lower) / page_seconds
    parts = min(parts, int(pages / _FEWEST_PAGES))
    if parts < 2:
        return (rest,)
    part_seconds = int(page_seconds * min(pages / parts, _MOST_PAGES))
    borders = [oldest - part_seconds * number for number in range(1, parts)]
    uppers = [rest.lt, *borders]
    lowers = [*borders, rest.gte]
    cursors = [rest.cursor, *(None for _ in borders)]
    return tuple(
        Range(gte=gte, lt=lt, cursor=cursor)
        for gte, lt, cursor in zip(lowers, uppers, cursors, strict=True)
    )
