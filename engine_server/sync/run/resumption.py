"""Starting point of a sync: the caller's state, corrected if the destination holds less."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import structlog

from engine_server.connectors.protocols import CheckpointKeeper, Messages, ResumeResult
from engine_server.stages.closing import closing
from engine_server.stages.contain_failure import contain_failure
from engine_server.stages.hard_limit import end_at
from engine_server.stages.resume_reading import OptimisticReading
from engine_server.stages.time_limit import until
from engine_server.state.state import ceiling
from engine_server.sync.checks.resolution import can_reconcile, follows_events, source_time
from engine_server.sync.plan.plan import SyncPlan
from engine_server.sync.run.comparison import Comparison
from engine_server.sync.run.reading import SourceReader
from engine_server.sync.run.rewinds import Correction, lost_inputs
from pipesync.v1.message_pb2 import Log, Message
from pipesync.v1.state_pb2 import Resumption, RewoundStream

_log = structlog.get_logger(__name__)

# Number of streams that the warning names.
_MAX_NAMES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class StartingPoint:
    """Point that a sync resumes from.

    Attributes:
        messages: Messages of the source from this point; if it is unknown, a failed connection or
            nothing.
        is_known: Whether the point is known. If the comparison failed or was cut off, nothing may
            be written.
        resumed: Outcome of the comparison; None if nothing was compared.
        resumption: The outcome as a message for the caller.
    """

    messages: Messages
    is_known: bool = True
    resumed: ResumeResult | None = None
    resumption: Resumption | None = None

    def warning(self) -> Message | None:
        """Return the warning about rewound streams; None if there are none."""
        if self.resumption is None or not self.resumption.rewound_streams:
            return None
        rewound = self.resumption.rewound_streams
        shown = "; ".join(_sentence(each) for each in rewound[:_MAX_NAMES])
        more = len(rewound) - _MAX_NAMES
        text = (
            "the destination does not hold all that earlier syncs wrote: "
            f"{shown}{f'; and {more} more streams' if more > 0 else ''}"
        )
        message = Message(emitted_by="engine", log=Log(level=Log.LEVEL_WARN, message=text))
        message.log.data["rewound_stream_count"] = len(rewound)
        return message


async def find_starting_point(
    plan: SyncPlan, reader: SourceReader, stack: AsyncExitStack
) -> StartingPoint:
    """Compare the state with the recorded checkpoints, and correct it to match them.

    The source is read concurrently, and read again if the correction moves the starting point. With
    a destination that records no checkpoints, the state alone is the starting point.

    Args:
        plan: Plan of the sync; its state is corrected in place.
        reader: Reads the source.
        stack: Closes the resources that are opened.
    """
    ending = reader.ending
    comparison = _comparison(plan)
    if comparison is None:
        _begin_schemas(plan, is_recorded=False)
        return StartingPoint(messages=_messages(plan, reader, None))
    reading = None
    if plan.has_work:
        first = reader.read(marks_end=comparison.records_inputs)
        reading = OptimisticReading(first, stop_timeout=plan.stop_seconds)
        stack.push_async_callback(reading.close)
    failures = await _run(comparison, plan, reader)
    if comparison.resumed is None:
        _begin_schemas(plan, is_recorded=True)
        return StartingPoint(messages=_given(failures), is_known=False)
    was_reconcile = plan.state.sync_run.reconcile
    correction = Correction(
        resumed=comparison.resumed,
        streams=[stream.name for stream in plan.streams],
        ceiling=ceiling(source_time(plan.source)),
        is_beside_run=plan.is_beside_run,
        can_reconcile=can_reconcile(plan.source, plan.destination),
        follows_events=follows_events(plan.source),
    )
    rewound = correction.apply(plan.state)
    ending.errored_streams.keep(plan.errored())
    _log_rewinds(rewound, comparison.resumed)
    is_elsewhere = bool(rewound) or was_reconcile != plan.state.sync_run.reconcile
    # Pages that were read concurrently may be too old to replace rows that remain.
    is_elsewhere |= (
        comparison.resumed.inputs_are_lost and not comparison.resumed.lost_inputs_are_replayable
    )
    if reading is not None and is_elsewhere and not plan.inputs:
        await reading.close()
        ending.is_listening = False
        reading = None
    _begin_schemas(plan, is_recorded=True)
    resumption = Resumption(
        state=plan.state,
        rewound_streams=rewound,
        lost_inputs=lost_inputs(comparison.resumed),
        account_id=comparison.account_id,
    )
    return StartingPoint(
        messages=_messages(plan, reader, reading),
        resumed=comparison.resumed,
        resumption=resumption,
    )


def _comparison(plan: SyncPlan) -> Comparison | None:
    destination = plan.destination
    if destination is None:
        return None
    keeper: object = destination.connector
    if not isinstance(keeper, CheckpointKeeper):
        return None
    return Comparison(
        source=plan.source,
        destination=destination,
        keeper=keeper,
        streams=plan.streams,
        state=plan.state,
        is_beside_run=plan.is_beside_run,
        advances_shared_checkpoint=not plan.inputs,
        pushes_inputs=plan.has_pushed_events,
        replayable_inputs=plan.replayable_inputs,
    )


async def _run(comparison: Comparison, plan: SyncPlan, reader: SourceReader) -> list[Message]:
    """Run the comparison until the hard limit or a shutdown; return its messages.

    It may pass the soft limit, because pages that were read by then still count.
    """
    ending = reader.ending
    async with AsyncExitStack() as stack:

        async def enter(stage: Messages) -> Messages:
            return await stack.enter_async_context(closing(stage))

        messages = await enter(comparison.messages(ending))
        messages = await enter(until(messages, plan.soft_limit.shutdown_limit(), ending.shut_down))
        messages = await enter(
            end_at(
                messages, plan.hard_limit, ending.run_out_of_time, stop_timeout=plan.stop_seconds
            )
        )
        return [message async for message in messages]


def _messages(plan: SyncPlan, reader: SourceReader, reading: OptimisticReading | None) -> Messages:
    """Return the source's messages; none if no work is left."""
    if not plan.has_work:
        return _given(())
    begin = reader.read if reading is None else reading.confirmed
    return contain_failure(begin, plan.source.name, reader.ending.fail)


def _begin_schemas(plan: SyncPlan, *, is_recorded: bool) -> None:
    if plan.schemas is not None:
        plan.schemas.begin(
            [stream.name for stream in plan.unfinished()],
            is_recorded=is_recorded,
            reconciles=plan.state.sync_run.reconcile,
        )


def _log_rewinds(rewound: Sequence[RewoundStream], resumed: ResumeResult) -> None:
    for each in rewound:
        _log.warning(
            "stream_rewound", stream=each.stream, from_start=each.from_start, reason=each.reason
        )
    if resumed.inputs_are_lost:
        held = resumed.held_inputs
        _log.warning(
            "inputs_lost",
            held=None if held is None else held.number,
            replayable=resumed.lost_inputs_are_replayable,
        )


def _sentence(rewound: RewoundStream) -> str:
    name = rewound.stream or "the checkpoint of all streams"
    where = "from the start" if rewound.from_start else "from an earlier checkpoint"
    return f"{name} goes on {where} ({rewound.reason.rstrip('.')})"


async def _given(messages: Sequence[Message]) -> Messages:
    for message in messages:
        yield message
