"""Context that closes a stage when its sync ends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engine_server.connectors.protocols import Messages


@asynccontextmanager
async def closing(stage: Messages) -> AsyncIterator[Messages]:
    """Close a generator on exit, unless it ignored the hard limit.

    Such a generator is still running, so it can only be abandoned, not closed.
    """
    try:
        yield stage
    finally:
        if not getattr(stage, "ag_running", False):
            await stage.aclose()
