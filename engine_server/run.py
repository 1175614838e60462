"""One sync: the list of its stages, from the source's first message to the eof."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from google.protobuf.timestamp_pb2 import Timestamp

from engine_server.barriers import Barriers
from engine_server.connectors.protocols import (
    Inventory,
    InventoryKeeper,
    Messages,
    ReadRequest,
    SelectedStream,
)
from engine_server.flush_times import RecentFlushes
from engine_server.pipeline import ResolvedDestination, ResolvedSource, can_reconcile
from engine_server.progress.tracker import FINAL_STATUSES
from engine_server.rejected import retry_before_reconcile
from engine_server.selection import with_ceiling
from engine_server.stages.contain_failure import contain_failure
from engine_server.stages.end_at_dead_letters import end_at_dead_letters
from engine_server.stages.enforce_catalog import enforce_catalog
from engine_server.stages.hard_limit import PATIENCE_SECONDS, end_at
from engine_server.stages.hurry import hurry_pages, measure_flushes, measure_pages
from engine_server.stages.pacing import Pacing
from engine_server.stages.reduce import Ending, reduce
from engine_server.stages.stamp import stamp
from engine_server.stages.take_through_states import take_through_states
from engine_server.stages.tap_log import tap_log
from engine_server.stages.time_limit import TimeLimit, until
from engine_server.stream_schemas import StreamSchemas
from pipesync.v1.message_pb2 import Message, SourceInput
from pipesync.v1.progress_pb2 import StreamProgress
from pipesync.v1.state_pb2 import SourceState, SyncState


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncPlan:
    """All that one sync needs, checked beforehand.

    Attributes:
        source: Where records come from.
        destination: Where they go; None to hand them to the caller instead.
        streams: The selected streams.
        state: What ``state.begin_run`` made; the sync folds checkpoints into it.
        state_limit: How many checkpoints to take; None for all.
        soft_limit: When to stop reading.
        hard_limit: When to stop altogether, on the event loop's clock in seconds; None for never.
        until: Where what is read ends in time.
        inputs: What the source is to handle instead of reading its history.
        events_only: Whether it is to read no history.
        listen: Whether the source may go on after that, until it is cut.
        stop_seconds: How long connectors may take to stop at the hard limit.
        limits_description: The limits in time by name and value, for the caller.
        recent_flushes: How long the destination's flushes took lately; those of this sync are
            added.
        schemas: What the state remembers of the streams' fields; None for a sync beside the runs.
    """

    source: ResolvedSource
    destination: ResolvedDestination | None
    streams: Sequence[SelectedStream]
    state: SyncState
    state_limit: int | None
    soft_limit: TimeLimit
    hard_limit: float | None
    until: Timestamp
    inputs: Sequence[SourceInput] = ()
    events_only: bool = False
    listen: bool = False
    stop_seconds: float = PATIENCE_SECONDS
    limits_description: str = ""
    recent_flushes: RecentFlushes = field(default_factory=RecentFlushes)
    schemas: StreamSchemas | None = None

    @property
    def is_beside_run(self) -> bool:
        """Whether it belongs to no run: then ``state`` is what the caller handed in."""
        return bool(self.inputs) or self.events_only

    @property
    def has_pushed_events(self) -> bool:
        """Whether the caller sent events, which it has to send again when they fail."""
        return any(not pushed.HasField("recent_events") for pushed in self.inputs)


async def run_sync(plan: SyncPlan) -> AsyncGenerator[Message, None]:
    """Yields the sync's messages: the run first, last the eof.

    Closing it closes every stage: it leaves no task, connection or socket.
    """
    streams = [] if plan.is_beside_run else _unfinished(plan)
    if plan.schemas is not None:
        plan.schemas.begin([stream.name for stream in streams])
    pacing = Pacing(
        soft_limit=plan.soft_limit, hard_limit=plan.hard_limit, recent=plan.recent_flushes
    )
    ending = Ending(
        refused_streams=_errored(plan),
        describe_limit=lambda: f"{plan.limits_description}: {pacing.describe_pages()}",
    )
    barriers = Barriers()

    def stop_reading() -> None:
        if plan.soft_limit.is_shutdown:
            ending.shut_down()
        else:
            ending.run_out_of_time()

    def listening() -> None:
        if not pacing.has_pages:
            ending.wait_for_events()

    async with AsyncExitStack() as stack:
        # A generator whose consumer fails is not closed by that; the stack closes each, last first.
        async def enter(stage: Messages) -> Messages:
            return await stack.enter_async_context(_closing(stage))

        messages = await enter(_nothing())
        if streams or plan.is_beside_run or not plan.state.sync_run.finished:
            inventory = await _inventory(plan, stack)
            reading = _read(plan, streams, ending, barriers, inventory, listening)
            messages = await enter(reading)
            if plan.state_limit is not None:
                messages = await enter(take_through_states(messages, plan.state_limit, ending.cut))
            if not plan.inputs:
                messages = await enter(
                    end_at_dead_letters(
                        messages, on_limit_reached=ending.cut, on_failure=ending.fail
                    )
                )
            messages = await enter(until(messages, plan.soft_limit, stop_reading))
            messages = await enter(measure_pages(messages, pacing))
            messages = await enter(stamp(messages, plan.source.name))
            messages = await enter(enforce_catalog(messages, plan.streams))
            messages = await enter(tap_log(messages, plan.source.name))
            if plan.destination is not None:
                messages = await enter(hurry_pages(messages, pacing))
                messages = await enter(_write(plan, plan.destination, messages, ending))
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
                streams=[stream.name for stream in streams],
                ending=ending,
                barriers=barriers,
                beside_run=plan.is_beside_run,
                schemas=plan.schemas,
                warning=_warning(plan),
                senders_keep_events=plan.has_pushed_events,
            )
        )
        async for message in messages:
            yield message


@asynccontextmanager
async def _closing(stage: Messages) -> AsyncIterator[Messages]:
    try:
        yield stage
    finally:
        # One that did not heed the hard limit is still running: it cannot be closed, only left.
        if not getattr(stage, "ag_running", False):
            await stage.aclose()


def _unfinished(plan: SyncPlan) -> list[SelectedStream]:
    """The streams that this request reads: those of the run that are in no final status yet."""
    run = plan.state.sync_run
    return [
        with_ceiling(stream, run.time_ceiling)
        for stream in plan.streams
        if stream.name not in run.progress.streams
        or run.progress.streams[stream.name].status not in FINAL_STATUSES
    ]


def _errored(plan: SyncPlan) -> set[str]:
    """The streams that earlier requests of the run gave up."""
    if plan.is_beside_run:
        return set()
    progress = plan.state.sync_run.progress
    return {
        name
        for name, stream in progress.streams.items()
        if stream.status == StreamProgress.STATUS_ERRORED
    }


def _warning(plan: SyncPlan) -> Message | None:
    """What the caller is told as the sync begins; None for most."""
    if plan.schemas is None:
        return None
    return plan.schemas.warning(can_reconcile=can_reconcile(plan.source, plan.destination))


async def _nothing() -> AsyncGenerator[Message, None]:
    """The messages of a sync that has nothing left to do."""
    none: tuple[Message, ...] = ()
    for message in none:
        yield message


async def _inventory(plan: SyncPlan, stack: AsyncExitStack) -> Inventory | None:
    """What the destination holds, open for as long as the source may ask."""
    destination = plan.destination
    if destination is None or not destination.connector.spec().supports_reconcile:
        return None
    keeper = cast("InventoryKeeper[Any]", destination.connector)
    return await stack.enter_async_context(keeper.inventory(destination.config, plan.streams))


def _read(
    plan: SyncPlan,
    streams: Sequence[SelectedStream],
    ending: Ending,
    barriers: Barriers,
    inventory: Inventory | None,
    on_listening: Callable[[], None],
) -> Messages:
    # The state grows while the sync goes on; the source sees it as it was handed in.
    checkpoints = SourceState()
    checkpoints.CopyFrom(plan.state.source)
    request = ReadRequest(
        streams=streams,
        state=checkpoints,
        selected=plan.streams,
        until=plan.until,
        state_limit=plan.state_limit,
        refused_streams=ending.refused_streams,
        begins_run=not plan.is_beside_run and not plan.state.sync_run.HasField("progress"),
        events_only=plan.events_only,
        inputs=plan.inputs,
        listen=plan.listen,
        barriers=barriers,
        inventory=inventory,
        reconcile=plan.state.sync_run.reconcile and not plan.is_beside_run,
        on_listening=on_listening,
        on_compared=ending.compared_event_ids.add,
    )
    return contain_failure(
        lambda: plan.source.connector.read(plan.source.config, request),
        plan.source.name,
        ending.fail,
    )


def _write(
    plan: SyncPlan,
    destination: ResolvedDestination,
    messages: AsyncIterator[Message],
    ending: Ending,
) -> Messages:
    run = plan.state.sync_run
    begins_reconcile = run.reconcile and not (plan.is_beside_run or run.HasField("progress"))

    async def write() -> Messages:
        if begins_reconcile:
            # An object may be gone at the source: no listing has its record written again.
            await retry_before_reconcile(destination, plan.streams)
        async with aclosing(
            destination.connector.write(destination.config, plan.streams, messages)
        ) as written:
            async for message in written:
                yield message

    return contain_failure(write, destination.name, ending.fail)
