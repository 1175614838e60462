"""Stages of one sync, from the source's first message to the eof."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any, cast

from engine_server.barriers import Barriers
from engine_server.connectors.protocols import Messages, StoredRows, StoredRowsKeeper
from engine_server.errored_streams import ErroredStreams
from engine_server.stages.annotate_and_log import annotate_and_log
from engine_server.stages.announce_schemas import announce_schemas
from engine_server.stages.closing import closing
from engine_server.stages.end_at_dead_letters import end_at_dead_letters
from engine_server.stages.ending import Ending
from engine_server.stages.enforce_catalog import enforce_catalog
from engine_server.stages.flush_early import flush_early, measure_flushes, measure_pages
from engine_server.stages.hard_limit import end_at
from engine_server.stages.pacing import Pacing
from engine_server.stages.reduce import reduce
from engine_server.stages.take_through_states import take_through_states
from engine_server.sync.checks.resolution import can_reconcile
from engine_server.sync.plan.plan import SyncPlan
from engine_server.sync.run.reading import SourceReader
from engine_server.sync.run.resumption import StartingPoint, find_starting_point
from engine_server.sync.run.writing import write
from pipesync.v1.message_pb2 import Message


async def run_sync(plan: SyncPlan) -> AsyncGenerator[Message, None]:
    """Yield the messages of a sync, from the run to the eof.

    Closing the generator closes every stage; no task, connection or socket stays open.
    """
    pacing = Pacing(
        soft_limit=plan.soft_limit, hard_limit=plan.hard_limit, recent=plan.recent_flushes
    )
    ending = Ending(
        errored_streams=ErroredStreams(plan.errored()),
        describe_limit=lambda: f"{plan.limits_description}: {pacing.describe_pages()}",
    )
    barriers = Barriers()

    def listening() -> None:
        if not pacing.has_pages:
            ending.wait_for_events()

    async with AsyncExitStack() as stack:
        # A generator is not closed when its consumer fails, so the stack closes each, last first.
        async def enter(stage: Messages) -> Messages:
            return await stack.enter_async_context(closing(stage))

        reader = SourceReader(
            plan=plan,
            ending=ending,
            barriers=barriers,
            stored_rows=await _stored_rows(plan, stack),
            on_listening=listening,
        )
        start = await find_starting_point(plan, reader, stack)
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
            messages = await enter(annotate_and_log(messages, plan.source.name))
            messages = await enter(enforce_catalog(messages, plan.streams))
            if plan.schemas is not None:
                messages = await enter(announce_schemas(messages, plan.schemas))
            if plan.destination is not None:
                messages = await enter(flush_early(messages, pacing))
                messages = await enter(
                    write(plan, plan.destination, messages, ending, start.resumed)
                )
                messages = await enter(measure_flushes(messages, pacing))
                messages = await enter(annotate_and_log(messages, plan.destination.name))
            messages = await enter(
                end_at(
                    messages,
                    plan.hard_limit,
                    ending.run_out_of_time,
                    stop_timeout=plan.stop_seconds,
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
                caller_keeps_events=plan.has_pushed_events,
            )
        )
        async for message in messages:
            yield message


def _warnings(plan: SyncPlan, start: StartingPoint) -> list[Message]:
    """Return the warnings for the caller at the beginning of the sync."""
    warnings = [start.warning()]
    if plan.schemas is not None:
        is_possible = can_reconcile(plan.source, plan.destination)
        warnings.append(plan.schemas.warning(can_reconcile=is_possible))
    return [warning for warning in warnings if warning is not None]


async def _stored_rows(plan: SyncPlan, stack: AsyncExitStack) -> StoredRows | None:
    """Return the destination's stored rows, open until the sync ends; None without queries."""
    destination = plan.destination
    if destination is None or not destination.connector.spec().supports_reconcile:
        return None
    keeper = cast("StoredRowsKeeper[Any]", destination.connector)
    return await stack.enter_async_context(keeper.stored_rows(destination.config, plan.streams))
