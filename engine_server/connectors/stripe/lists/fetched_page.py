"""Page of a list with the rest of its range, and the objects that exist according to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine_server.connectors.stripe.lists.ranges import Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The objects that exist according to a page.

    Attributes:
        scope: The time range that the page was requested for.
        created: The creation time in Unix seconds of each object by its id, in the order of the
            list; None if unknown. If the records are items of lists inside the objects, these
            items.
        owners: The ids of the objects that hold these items; else empty.
    """

    scope: Range
    created: Mapping[str, int | None]
    owners: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedPage:
    """A page of a list, and its effect on the range that it was fetched for.

    Attributes:
        part: The range before the page.
        left: The rest of the range still to be read, newest first.
        records: The records of the page's objects in the stream's window.
        read_until: The end of the page's coverage in Unix seconds, if it is the newest page and
            more objects of the window may appear later.
        listing: The objects that exist according to the page; None unless the run reconciles.
    """

    part: Range
    left: tuple[Range, ...]
    records: list[bytes]
    listing: Listing | None = None
    read_until: int | None = None
