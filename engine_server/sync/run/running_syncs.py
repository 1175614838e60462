"""Running syncs, and their graceful shutdown."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import structlog

from engine_server.stages.time_limit import TimeLimit
from engine_server.sync.plan.plan import SyncPlan
from engine_server.sync.run.run import run_sync
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import RunStatus
from pipesync.v1.state_pb2 import Eof

_log = structlog.get_logger(__name__)

# Number of streams that a log line names.
_MAX_NAMES = 10


class RunningSyncs:
    """Runner of syncs, which logs the start and outcome of each."""

    def __init__(self) -> None:
        self._soft_limits: set[TimeLimit] = set()
        self._is_shutting_down = False

    def request_shutdown(self) -> None:
        """Make every sync stop reading, flush and end with ``has_more``.

        A sync that begins afterwards reads nothing.
        """
        self._is_shutting_down = True
        for soft_limit in self._soft_limits:
            soft_limit.end_now()

    async def run(self, plan: SyncPlan) -> AsyncGenerator[Message, None]:
        """Yield the messages of one sync, which ``request_shutdown`` can end."""
        self._soft_limits.add(plan.soft_limit)
        if self._is_shutting_down:
            plan.soft_limit.end_now()
        outcome: dict[str, Any] = {"status": "left"}
        _log.info(
            "sync_started",
            run_id=plan.state.sync_run.run_id,
            streams=len(plan.streams),
            inputs=len(plan.inputs),
        )
        outdated = plan.schemas.outdated() if plan.schemas is not None else []
        if outdated:
            _log.warning("streams_outdated", count=len(outdated), streams=outdated[:_MAX_NAMES])
        try:
            async with aclosing(run_sync(plan)) as messages:
                async for message in messages:
                    if message.HasField("eof"):
                        outcome = _outcome(message.eof)
                    yield message
        finally:
            self._soft_limits.discard(plan.soft_limit)
            _log.info("sync_ended", run_id=plan.state.sync_run.run_id, **outcome)


def _outcome(eof: Eof) -> dict[str, Any]:
    """Return the outcome of a request for its log line."""
    done = eof.request_progress.derived
    return {
        "status": RunStatus.Name(eof.status).removeprefix("RUN_STATUS_").lower(),
        "has_more": eof.has_more,
        "records": done.total_record_count,
        "states": done.total_state_count + eof.request_progress.global_state_count,
        "elapsed_ms": eof.request_progress.elapsed_ms,
    }
