"""Closes a stage when the sync that it belongs to ends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engine_server.connectors.protocols import Messages


@asynccontextmanager
async def closing(stage: Messages) -> AsyncIterator[Messages]:
    """Closes a generator in the end, unless it did not heed the hard limit.

    That one is still running: it cannot be closed, only left.
    """
    try:
        yield stage
    finally:
        if not getattr(stage, "ag_running", False):
            await stage.aclose()
