"""Suspension of garbage collection while a large value is created."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Size in bytes from which decoding a JSON text creates enough objects to make collections costly.
LARGE = 64 * 1024


@contextmanager
def gc_paused() -> Iterator[None]:
    """Disable garbage collection in the block, which should only create a large value.

    Otherwise, while hundreds of thousands of lists are created, the collector traverses all of them
    repeatedly, which takes ten times as long as creating them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
