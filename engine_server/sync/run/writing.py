"""Writing to the destination in one sync."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

import structlog

from engine_server.connectors.protocols import CheckpointKeeper, Messages, ResumeResult
from engine_server.errors import CheckpointsMoved
from engine_server.stages.contain_failure import contain_failure
from engine_server.stages.ending import Ending
from engine_server.sync.checks.resolution import ResolvedDestination
from engine_server.sync.plan.plan import SyncPlan
from engine_server.sync.run.rejected import retry_before_reconcile
from pipesync.v1.message_pb2 import Message

_log = structlog.get_logger(__name__)


def write(
    plan: SyncPlan,
    destination: ResolvedDestination,
    messages: AsyncIterator[Message],
    ending: Ending,
    resumed: ResumeResult | None,
) -> Messages:
    """Yield the destination's messages; a failure ends them.

    Args:
        plan: Plan of the sync.
        destination: Destination of the sync.
        messages: Records and checkpoints to write.
        ending: Records failures, and the loss of checkpoints to another request. In the latter
            case, a sync of pushed events fails, and its caller sends them again.
        resumed: Outcome of the comparison; None if nothing was compared.
    """

    async def begin() -> Messages:
        if _begins_reconcile(plan):
            # If the object was deleted at the source, no list yields its record again.
            await retry_before_reconcile(destination, plan.streams)
        try:
            async with aclosing(_written(plan, destination, messages, resumed)) as written:
                async for message in written:
                    yield message
        except CheckpointsMoved as error:
            if plan.has_pushed_events:
                raise
            _log.warning("checkpoints_moved", error=error.message)
            ending.lose_checkpoints()

    return contain_failure(begin, destination.name, ending.fail)


def _begins_reconcile(plan: SyncPlan) -> bool:
    run = plan.state.sync_run
    return run.reconcile and not (plan.is_beside_run or run.HasField("progress"))


def _written(
    plan: SyncPlan,
    destination: ResolvedDestination,
    messages: AsyncIterator[Message],
    resumed: ResumeResult | None,
) -> Messages:
    if resumed is None:
        return destination.connector.write(destination.config, plan.streams, messages)
    keeper = cast("CheckpointKeeper[Any]", destination.connector)
    return keeper.write_resumed(destination.config, plan.streams, messages, resumed)
