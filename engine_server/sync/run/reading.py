"""Reading of the source in one sync."""

from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass

from engine_server.barriers import Barriers
from engine_server.connectors.protocols import Messages, ReadRequest, StoredRows
from engine_server.stages.end_inputs import end_inputs
from engine_server.stages.ending import Ending
from engine_server.stages.time_limit import until
from engine_server.sync.plan.plan import SyncPlan
from pipesync.v1.state_pb2 import SourceState


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReader:
    """Reader of the source, starting at the plan's state at the time of the call.

    Attributes:
        plan: Plan of the sync.
        ending: Records a limit that stops the reading.
        barriers: Barriers of the request.
        stored_rows: Rows that the destination holds; None if they cannot be queried.
        on_listening: Called once the source waits for events.
    """

    plan: SyncPlan
    ending: Ending
    barriers: Barriers
    stored_rows: StoredRows | None
    on_listening: Callable[[], None]

    async def read(self, *, marks_end: bool = False) -> Messages:
        """Yield the source's messages up to the soft limit.

        Args:
            marks_end: Whether to yield ``inputs_end`` after the inputs, for the destination to
                record.
        """
        plan = self.plan
        async with AsyncExitStack() as stack:

            async def enter(stage: Messages) -> Messages:
                return await stack.enter_async_context(aclosing(stage))

            source = plan.source
            messages = await enter(source.connector.read(source.config, self._request()))
            if marks_end:
                messages = await enter(end_inputs(messages))
            messages = await enter(until(messages, plan.soft_limit, self._stop))
            async for message in messages:
                yield message

    def _stop(self) -> None:
        if self.plan.soft_limit.is_shutdown:
            self.ending.shut_down()
        else:
            self.ending.run_out_of_time()

    def _request(self) -> ReadRequest:
        plan = self.plan
        run = plan.state.sync_run
        # The sync updates its state; the source gets a copy of the initial state.
        checkpoints = SourceState()
        checkpoints.CopyFrom(plan.state.source)
        return ReadRequest(
            streams=plan.unfinished(),
            state=checkpoints,
            selected=plan.streams,
            until=plan.until if plan.is_beside_run else run.time_ceiling,
            state_limit=plan.state_limit,
            errored_streams=self.ending.errored_streams,
            begins_run=not plan.is_beside_run and not run.HasField("progress"),
            events_only=plan.events_only,
            inputs=plan.inputs,
            listen=plan.listen,
            barriers=self.barriers,
            stored_rows=self.stored_rows,
            reconcile=run.reconcile and not plan.is_beside_run,
            on_listening=self.on_listening,
            on_event_compared=self.ending.compared_event_ids.add,
        )
