"""How one sync reads its source."""

from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass

from engine_server.barriers import Barriers
from engine_server.connectors.protocols import Inventory, Messages, ReadRequest
from engine_server.plan import SyncPlan
from engine_server.stages.end_inputs import end_inputs
from engine_server.stages.reduce import Ending
from engine_server.stages.time_limit import until
from pipesync.v1.state_pb2 import SourceState


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReader:
    """Reads the source from where the plan's state is at that time.

    Attributes:
        plan: The sync, and its limits.
        ending: Notes a limit that stops the reading.
        barriers: Those of the request.
        inventory: The destination's; None when it keeps none.
        on_listening: Called once the source waits for events.
    """

    plan: SyncPlan
    ending: Ending
    barriers: Barriers
    inventory: Inventory | None
    on_listening: Callable[[], None]

    async def read(self, *, marks_end: bool = False) -> Messages:
        """Yields the source's messages, up to the soft limit.

        Args:
            marks_end: Whether the end of the inputs is marked, for the destination to record.
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
        # The state grows while the sync goes on; the source sees it as it was handed in.
        checkpoints = SourceState()
        checkpoints.CopyFrom(plan.state.source)
        return ReadRequest(
            streams=plan.unfinished(),
            state=checkpoints,
            selected=plan.streams,
            until=plan.until if plan.is_beside_run else run.time_ceiling,
            state_limit=plan.state_limit,
            refused_streams=self.ending.refused_streams,
            begins_run=not plan.is_beside_run and not run.HasField("progress"),
            events_only=plan.events_only,
            inputs=plan.inputs,
            listen=plan.listen,
            barriers=self.barriers,
            inventory=self.inventory,
            reconcile=run.reconcile and not plan.is_beside_run,
            on_listening=self.on_listening,
        )
