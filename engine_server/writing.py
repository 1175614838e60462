"""How one sync writes to its destination."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

import structlog

from engine_server.connectors.protocols import CheckpointKeeper, Messages, Resumed
from engine_server.errors import CheckpointsMoved
from engine_server.pipeline import ResolvedDestination
from engine_server.plan import SyncPlan
from engine_server.rejected import retry_before_reconcile
from engine_server.stages.contain_failure import contain_failure
from engine_server.stages.reduce import Ending
from pipesync.v1.message_pb2 import Message

log = structlog.get_logger()


def write(
    plan: SyncPlan,
    destination: ResolvedDestination,
    messages: AsyncIterator[Message],
    ending: Ending,
    resumed: Resumed | None,
) -> Messages:
    """Yield the messages that the destination passes on; a failure ends them.

    Args:
        plan: The sync.
        destination: Its destination.
        messages: The records and checkpoints to write.
        ending: Notes failures, and checkpoints that another request took over. A sync of pushed
            events fails then, and its caller sends them again.
        resumed: The outcome of the comparison; None where nothing was compared.
    """

    async def begin() -> Messages:
        if _begins_reconcile(plan):
            # An object may be gone at the source: no listing has its record written again.
            await retry_before_reconcile(destination, plan.streams)
        try:
            async with aclosing(_written(plan, destination, messages, resumed)) as written:
                async for message in written:
                    yield message
        except CheckpointsMoved as error:
            if plan.has_pushed_events:
                raise
            log.warning("checkpoints_moved", error=error.message)
            ending.lose_checkpoints()

    return contain_failure(begin, destination.name, ending.fail)


def _begins_reconcile(plan: SyncPlan) -> bool:
    run = plan.state.sync_run
    return run.reconcile and not (plan.is_beside_run or run.HasField("progress"))


def _written(
    plan: SyncPlan,
    destination: ResolvedDestination,
    messages: AsyncIterator[Message],
    resumed: Resumed | None,
) -> Messages:
    if resumed is None:
        return destination.connector.write(destination.config, plan.streams, messages)
    keeper = cast("CheckpointKeeper[Any]", destination.connector)
    return keeper.write_resumed(destination.config, plan.streams, messages, resumed)
