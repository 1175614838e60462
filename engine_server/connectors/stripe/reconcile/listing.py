"""What a page of a list shows to be there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine_server.connectors.stripe.ranges import Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a page shows to be there.

    Attributes:
        scope: The part of the list that the page was asked for, in time.
        created: When each object was made, by its id, in the order of the list; None where it does
            not tell in Unix seconds. Where the records are the items of lists inside the objects,
            these items.
        owners: The ids of those objects then; else empty.
    """

    scope: Range
    created: Mapping[str, int | None]
    owners: Sequence[str] = ()
