"""The syncs under way, which all can be told to end."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import structlog

from engine_server.plan import SyncPlan
from engine_server.run import run_sync
from engine_server.stages.time_limit import TimeLimit
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import RunStatus
from pipesync.v1.state_pb2 import Eof

log = structlog.get_logger()

# More names than that make no line of a log.
_MOST_NAMES = 10


class RunningSyncs:
    """Runs syncs, and logs when each begins and how it ends."""

    def __init__(self) -> None:
        self._soft_limits: set[TimeLimit] = set()
        self._ending = False

    def end_softly(self) -> None:
        """Has every sync stop reading now: it flushes, and answers with has_more.

        One that begins after that reads nothing at all.
        """
        self._ending = True
        for soft_limit in self._soft_limits:
            soft_limit.end_now()

    async def run(self, plan: SyncPlan) -> AsyncGenerator[Message, None]:
        """The messages of one sync, which ``end_softly`` reaches."""
        self._soft_limits.add(plan.soft_limit)
        if self._ending:
            plan.soft_limit.end_now()
        outcome: dict[str, Any] = {"status": "left"}
        log.info(
            "sync_started",
            run_id=plan.state.sync_run.run_id,
            streams=len(plan.streams),
            inputs=len(plan.inputs),
        )
        outdated = plan.schemas.outdated() if plan.schemas is not None else []
        if outdated:
            log.warning("streams_outdated", count=len(outdated), streams=outdated[:_MOST_NAMES])
        try:
            async with aclosing(run_sync(plan)) as messages:
                async for message in messages:
                    if message.HasField("eof"):
                        outcome = _outcome(message.eof)
                    yield message
        finally:
            self._soft_limits.discard(plan.soft_limit)
            log.info("sync_ended", run_id=plan.state.sync_run.run_id, **outcome)


def _outcome(eof: Eof) -> dict[str, Any]:
    """How a request ended, for its log line."""
    done = eof.request_progress.derived
    return {
        "status": RunStatus.Name(eof.status).removeprefix("RUN_STATUS_").lower(),
        "has_more": eof.has_more,
        "records": done.total_record_count,
        "states": done.total_state_count + eof.request_progress.global_state_count,
        "elapsed_ms": eof.request_progress.elapsed_ms,
    }
