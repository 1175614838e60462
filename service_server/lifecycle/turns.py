"""One pipeline's turn: its lease, one step, and all that came of it in one transaction."""

import random
from dataclasses import replace
from datetime import timedelta
from typing import Protocol

import structlog

from pipesync.v1.pipeline_service_pb2 import PipelineStatus
from pipesync_rpc.errors import RpcError
from service_server.errors import LeaseLost, StoreUnavailable, SyncInProgress
from service_server.held_rejected import held_after, store_held
from service_server.leases import Lease, LeaseKeeper
from service_server.lifecycle import happenings, machine
from service_server.lifecycle.memory import Memory, Work
from service_server.lifecycle.situation import Situation, Situations, has_cursor, rewound_run
from service_server.lifecycle.steps import Outcome, Steps
from service_server.recorder import at_last
from service_server.store import lifecycles, pipelines, states
from service_server.store.database import Connection, Database
from service_server.store.leases import LeaseKind
from service_server.store.lifecycles import Claim

_log = structlog.get_logger(__name__)


class Inbox(Protocol):
    """What came in for pipelines, and waits to be applied."""

    async def apply(self, pipeline_id: str) -> int:
        """Applies what waits, or a bounded part of it, under a lease of its own.

        Returns:
            How much was applied: 0 when nothing waits.
        """


class Turns:
    """Takes the turns of pipelines that run by themselves."""

    def __init__(
        self,
        *,
        situations: Situations,
        steps: Steps,
        database: Database,
        leases: LeaseKeeper,
        pace: machine.Pace,
        inbox: Inbox | None = None,
    ) -> None:
        self._situations = situations
        self._steps = steps
        self._database = database
        self._leases = leases
        self._pace = pace
        self._inbox = inbox

    async def take(self, claim: Claim) -> None:
        """Does what is next, stores what came of it, and when the pipeline is due again.

        Raises:
            SyncInProgress: somebody else syncs the pipeline.
            PipelineNotFound: it is gone.
            LeaseLost: somebody else may sync it by now.
            StoreUnavailable: the database is away.
        """
        applied = await self._apply_inbox(claim.pipeline_id)
        async with self._leases.hold(claim.pipeline_id, kind=LeaseKind.SYNC) as lease:
            situation = await self._situations.look(claim.pipeline_id)
            if situation is None:
                return
            if applied is not None:
                situation = replace(situation, memory=self._after(situation, applied))
            action = machine.decide(situation.memory, situation.facts, situation.now())
            outcome = await self._steps.do(action, situation, lease)
            await self._conclude(claim, situation, outcome, lease)
        if outcome.happened is not None:
            _log.info(
                "lifecycle_step",
                step=type(action).__name__.lower(),
                outcome=type(outcome.happened).__name__.lower(),
                run_id=outcome.run_id or None,
                records=outcome.records,
                seconds=round(situation.seconds(), 3),
                **_told(outcome.happened),
            )

    async def _apply_inbox(self, pipeline_id: str) -> happenings.Happening | None:
        """What came of it; None when nothing was tried."""
        if self._inbox is None:
            return None
        situation = await self._situations.look(pipeline_id)
        if situation is None or not machine.may_apply_inbox(
            situation.memory, situation.facts, situation.now()
        ):
            return None
        try:
            while await self._inbox.apply(pipeline_id):
                if situation.seconds() > self._pace.step.total_seconds():
                    return happenings.InboxApplied(has_more=True)
        except (SyncInProgress, LeaseLost, StoreUnavailable):
            raise
        except RpcError as error:
            return happenings.Failed(work=Work.INBOX, reason=error.message)
        return happenings.InboxApplied(has_more=False)

    def _after(self, situation: Situation, happened: happenings.Happening) -> Memory:
        return machine.after(
            situation.memory,
            happened,
            self._pace,
            situation.now(),
            jitter=random.random(),  # noqa: S311 - spreads load
        )

    async def _conclude(
        self, claim: Claim, situation: Situation, outcome: Outcome, lease: Lease
    ) -> None:
        memory, facts = situation.memory, situation.facts
        if outcome.happened is not None:
            memory = self._after(situation, outcome.happened)
        if isinstance(outcome.happened, happenings.WasSetUp):
            facts = replace(facts, etag=outcome.happened.etag)
        state = outcome.recorder.state if outcome.recorder is not None else outcome.state
        if state is not None:
            facts = replace(
                facts, has_state=True, has_cursor=has_cursor(state), rewound=rewound_run(state)
            )
        eof = outcome.eof
        if eof is not None:
            held = held_after(eof, facts.held_rejected_record_count)
            facts = replace(facts, held_rejected_record_count=held)
        status, message = machine.status(memory, facts)
        now = situation.now()
        due = machine.next_due(memory, facts, now)
        delay = max(due - now, timedelta(0)) if due is not None else None

        async def store_lifecycle(connection: Connection) -> None:
            if eof is not None:
                await store_held(connection, claim.pipeline_id, eof)
            await pipelines.set_status(connection, claim.pipeline_id, status, message)
            await lifecycles.put(connection, claim, memory.to_json(), delay)

        async def store() -> None:
            letters = outcome.dead_letters and outcome.dead_letters.unstored()
            async with self._database.transaction() as connection:
                await lease.require(connection)
                if letters:
                    await letters.store(connection)
                if outcome.state is not None:
                    account_id = eof.account_id if eof is not None else ""
                    await states.put(connection, claim.pipeline_id, outcome.state, account_id)
                    if outcome.inputs is not None:
                        await outcome.inputs.store(connection)
                await store_lifecycle(connection)
            if letters:
                letters.done()

        if outcome.recorder is not None:
            await outcome.recorder.store_at_last(store_lifecycle)
        else:
            await at_last(store)
        before = situation.stored.pipeline.status
        if status != before:
            _log.info(
                "lifecycle_status",
                before=PipelineStatus.Name(before),
                status=PipelineStatus.Name(status),
                reason=message or None,
            )


def _told(happened: happenings.Happening) -> dict[str, str | bool]:
    """What a log line says besides."""
    match happened:
        case happenings.Failed(reason=reason):
            return {"reason": reason}
        case happenings.Synced(failure=failure, has_more=has_more, reconciles=reconciles):
            told: dict[str, str | bool] = {"has_more": has_more, "reconciles": reconciles}
            return told | ({"reason": failure} if failure else {})
        case _:
            return {}
