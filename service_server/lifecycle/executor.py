"""Executor of one pipeline's step: takes the lease, acts, and stores the results atomically."""

import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Protocol

import structlog

from pipesync.v1.pipeline_service_pb2 import PipelineStatus
from pipesync_rpc.errors import RpcError
from service_server.errors import LeaseLost, StoreUnavailable, SyncInProgress
from service_server.lifecycle import machine, outcomes
from service_server.lifecycle.context import (
    StepContext,
    StepContextLoader,
    has_cursor,
    rewound_run,
)
from service_server.lifecycle.state import LifecycleState, StepKind
from service_server.lifecycle.steps import StepResult, Steps
from service_server.store import lifecycles, pipelines
from service_server.store.database import Connection
from service_server.store.held_rejected import held_after
from service_server.store.leases import LeaseKind
from service_server.store.lifecycles import Claim
from service_server.sync.session import SyncSession
from service_server.sync.sessions import SyncSessions

_log = structlog.get_logger(__name__)

# Values of ``outcome`` in the log, which operators filter by.
_LOGGED_OUTCOMES: Mapping[type[outcomes.StepOutcome], str] = {
    outcomes.SetupSucceeded: "wassetup",
    outcomes.Synced: "synced",
    outcomes.Polled: "polled",
    outcomes.InboxApplied: "inboxapplied",
    outcomes.StepFailed: "failed",
}


class EventApplier(Protocol):
    """Applier of the pending events of pipelines' inboxes."""

    async def apply(self, pipeline_id: str) -> int:
        """Apply pending events of a pipeline, at most one batch, under a lease of its own.

        Returns:
            The number of events that were applied: 0 if none is pending.
        """


class StepExecutor:
    """Executes steps of continuous pipelines."""

    def __init__(
        self,
        *,
        contexts: StepContextLoader,
        steps: Steps,
        sessions: SyncSessions,
        intervals: machine.Intervals,
        inbox: EventApplier | None = None,
    ) -> None:
        self._contexts = contexts
        self._steps = steps
        self._sessions = sessions
        self._intervals = intervals
        self._inbox = inbox

    async def run_step(self, claim: Claim) -> None:
        """Run the next step of a claimed pipeline, and store its result and the next due time.

        Raises:
            SyncInProgress: Another process syncs the pipeline.
            PipelineNotFound: The pipeline does not exist.
            LeaseLost: Another process may sync the pipeline by now.
            StoreUnavailable: The database is unavailable.
        """
        applied = await self._apply_inbox(claim.pipeline_id)
        async with self._sessions.open(claim.pipeline_id, LeaseKind.SYNC) as session:
            context = await self._contexts.load(claim.pipeline_id)
            if context is None:
                return
            if applied is not None:
                context = replace(context, lifecycle=self._next_state(context, applied))
            action = machine.decide(context.lifecycle, context.snapshot, context.now())
            result = await self._steps.execute(action, context, session)
            await self._store(claim, context, result, session)
        if result.outcome is not None:
            _log.info(
                "lifecycle_step",
                step=type(action).__name__.lower(),
                outcome=_LOGGED_OUTCOMES[type(result.outcome)],
                run_id=result.run_id or None,
                records=result.records,
                seconds=round(context.age(), 3),
                **_log_fields(result.outcome),
            )

    async def _apply_inbox(self, pipeline_id: str) -> outcomes.StepOutcome | None:
        """Apply pending events, and return the outcome; None if they may not be applied now."""
        if self._inbox is None:
            return None
        context = await self._contexts.load(pipeline_id)
        if context is None or not machine.may_apply_inbox(
            context.lifecycle, context.snapshot, context.now()
        ):
            return None
        try:
            while await self._inbox.apply(pipeline_id):
                if context.age() > self._intervals.step.total_seconds():
                    return outcomes.InboxApplied(has_more=True)
        except (SyncInProgress, LeaseLost, StoreUnavailable):
            raise
        except RpcError as error:
            return outcomes.StepFailed(kind=StepKind.INBOX, reason=error.message)
        return outcomes.InboxApplied(has_more=False)

    def _next_state(self, context: StepContext, outcome: outcomes.StepOutcome) -> LifecycleState:
        return machine.next_state(
            context.lifecycle,
            outcome,
            self._intervals,
            context.now(),
            jitter=random.random(),  # noqa: S311 - spreads load
        )

    async def _store(
        self, claim: Claim, context: StepContext, result: StepResult, session: SyncSession
    ) -> None:
        lifecycle, snapshot = context.lifecycle, context.snapshot
        if result.outcome is not None:
            lifecycle = self._next_state(context, result.outcome)
        if isinstance(result.outcome, outcomes.SetupSucceeded):
            snapshot = replace(snapshot, etag=result.outcome.etag)
        if result.sync_state is not None:
            snapshot = replace(
                snapshot,
                has_sync_state=True,
                has_cursor=has_cursor(result.sync_state),
                rewound=rewound_run(result.sync_state),
            )
        if result.eof is not None:
            held = held_after(result.eof, snapshot.held_rejected_record_count)
            snapshot = replace(snapshot, held_rejected_record_count=held)
        status, message = machine.status(lifecycle, snapshot)
        now = context.now()
        due = machine.next_due(lifecycle, snapshot, now)
        delay = max(due - now, timedelta(0)) if due is not None else None

        async def store_lifecycle(connection: Connection) -> None:
            await pipelines.set_status(connection, claim.pipeline_id, status, message)
            await lifecycles.put(connection, claim, lifecycle.to_json(), delay)

        if result.call is not None:
            await result.call.recorder.store_with_retry(store_lifecycle)
        else:
            await session.store(store_lifecycle)
        before = context.stored.pipeline.status
        if status != before:
            _log.info(
                "lifecycle_status",
                before=PipelineStatus.Name(before),
                status=PipelineStatus.Name(status),
                reason=message or None,
            )


def _log_fields(outcome: outcomes.StepOutcome) -> dict[str, str | bool]:
    """Return the fields that the log shows for this kind of outcome only."""
    match outcome:
        case outcomes.SetupSucceeded(renews=renews):
            return {"renews": renews}
        case outcomes.StepFailed(reason=reason):
            return {"reason": reason}
        case outcomes.Synced(failure=failure, has_more=has_more, reconciles=reconciles):
            fields: dict[str, str | bool] = {"has_more": has_more, "reconciles": reconciles}
            return fields | ({"reason": failure} if failure else {})
        case _:
            return {}
