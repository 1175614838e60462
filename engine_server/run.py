"""One sync: the list of its stages, from the source's first message to the eof."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any, cast

from engine_server.barriers import Barriers
from engine_server.connectors.protocols import Inventory, InventoryKeeper, Messages
from engine_server.pipeline import can_reconcile
from engine_server.plan import SyncPlan
from engine_server.reading import SourceReader
from engine_server.resumption import Start, find_start
from engine_server.stages.announce_schemas import announce_schemas
from engine_server.stages.closing import closing
from engine_server.stages.end_at_dead_letters import end_at_dead_letters
from engine_server.stages.enforce_catalog import enforce_catalog
from engine_server.stages.hard_limit import end_at
from engine_server.stages.hurry import hurry_pages, measure_flushes, measure_pages
from engine_server.stages.pacing import Pacing
from engine_server.stages.reduce import Ending, reduce
from engine_server.stages.stamp import stamp
from engine_server.stages.take_through_states import take_through_states
from engine_server.stages.tap_log import tap_log
from engine_server.writing import write
from pipesync.v1.message_pb2 import Message


async def run_sync(plan: SyncPlan) -> AsyncGenerator[Message, None]:
    """Yields the sync's messages: the run first, last the eof.

    Closing it closes every stage: it leaves no task, connection or socket.
    """
    pacing = Pacing(
        soft_limit=plan.soft_limit, hard_limit=plan.hard_limit, recent=plan.recent_flushes
    )
    ending = Ending(
        refused_streams=plan.errored(),
        describe_limit=lambda: f"{plan.limits_description}: {pacing.describe_pages()}",
    )
    barriers = Barriers()

    def listening() -> None:
        if not pacing.has_pages:
            ending.wait_for_events()

    async with AsyncExitStack() as stack:
        # A generator whose consumer fails is not closed by that; the stack closes each, last first.
        async def enter(stage: Messages) -> Messages:
            return await stack.enter_async_context(closing(stage))

        reader = SourceReader(
            plan=plan,
            ending=ending,
            barriers=barriers,
            inventory=await _inventory(plan, stack),
            on_listening=listening,
        )
        start = await find_start(plan, reader, stack)
        messages = await enter(start.messages)
        if start.is_known and plan.has_work:
            if plan.state_limit is not None:
                messages = await enter(take_through_states(messages, plan.state_limit, ending.cut))
            if not plan.inputs:
                messages = await enter(
                    end_at_dead_letters(
                        messages, on_limit_reached=ending.cut, on_failure=ending.fail
                    )
                )
            messages = await enter(measure_pages(messages, pacing))
            messages = await enter(stamp(messages, plan.source.name))
            messages = await enter(enforce_catalog(messages, plan.streams))
            messages = await enter(tap_log(messages, plan.source.name))
            if plan.schemas is not None:
                messages = await enter(announce_schemas(messages, plan.schemas))
            if plan.destination is not None:
                messages = await enter(hurry_pages(messages, pacing))
                messages = await enter(
                    write(plan, plan.destination, messages, ending, start.resumed)
                )
                messages = await enter(measure_flushes(messages, pacing))
                messages = await enter(stamp(messages, plan.destination.name))
                messages = await enter(tap_log(messages, plan.destination.name))
            messages = await enter(
                end_at(
                    messages, plan.hard_limit, ending.run_out_of_time, patience=plan.stop_seconds
                )
            )
        messages = await enter(
            reduce(
                messages,
                state=plan.state,
                streams=[stream.name for stream in plan.unfinished()],
                ending=ending,
                barriers=barriers,
                beside_run=plan.is_beside_run,
                schemas=plan.schemas,
                resumption=start.resumption,
                warnings=_warnings(plan, start),
                senders_keep_events=plan.has_pushed_events,
            )
        )
        async for message in messages:
            yield message


def _warnings(plan: SyncPlan, start: Start) -> list[Message]:
    """What the caller is told as the sync begins."""
    warnings = [start.warning()]
    if plan.schemas is not None:
        is_possible = can_reconcile(plan.source, plan.destination)
        warnings.append(plan.schemas.warning(can_reconcile=is_possible))
    return [warning for warning in warnings if warning is not None]


async def _inventory(plan: SyncPlan, stack: AsyncExitStack) -> Inventory | None:
    """What the destination holds, open for as long as the source may ask."""
    destination = plan.destination
    if destination is None or not destination.connector.spec().supports_reconcile:
        return None
    keeper = cast("InventoryKeeper[Any]", destination.connector)
    return await stack.enter_async_context(keeper.inventory(destination.config, plan.streams))
