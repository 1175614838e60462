"""State of the completion of lists inside a stream's objects, which a client keeps per stream."""

import asyncio
from dataclasses import dataclass, field

# The number of pages of a stream completed concurrently: the second page uses the rate while the
# first has only one long list left. More pages would each take longer, and fill the memory.
_PAGES_AT_ONCE = 2


@dataclass(slots=True)
class ListCompletion:
    """State that the pages of one stream share.

    Attributes:
        turn: Limits the pages whose lists are completed concurrently.
        has_warned: Whether a list that stays incomplete was logged as a warning.
    """

    turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_PAGES_AT_ONCE))
    has_warned: bool = False
