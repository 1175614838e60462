"""Syncs that callers request, as one answer or as a stream of messages."""

import asyncio
import uuid

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.state_pb2 import Eof, SyncState
from service_server.configuration.connectors import Connectors
from service_server.engine import Messages
from service_server.leases.in_flight import InFlight, Send
from service_server.store import states
from service_server.store.leases import LeaseKind
from service_server.store.states import StoredState
from service_server.sync.basis import SyncBasis
from service_server.sync.call import SyncCall
from service_server.sync.planning import SyncPlan, SyncPlanner, SyncRequest, time_limit
from service_server.sync.records.run_record import RunRecord
from service_server.sync.records.subject import Subject
from service_server.sync.session import SyncSession
from service_server.sync.sessions import SyncSessions


class Syncs:
    """Runs syncs, one of each pipeline at a time.

    The events of a pipeline are applied concurrently.
    """

    def __init__(
        self,
        *,
        sessions: SyncSessions,
        planner: SyncPlanner,
        connectors: Connectors,
        in_flight: InFlight,
    ) -> None:
        """Initialize.

        Args:
            sessions: Opens the session of each sync.
            planner: Checks the requests.
            connectors: The specs of the connectors, which know the account of a source.
            in_flight: The calls that have to end before the service stops.
        """
        self._sessions = sessions
        self._planner = planner
        self._connectors = connectors
        self._in_flight = in_flight

    async def batch(
        self, request: pb.SyncPipelineBatchRequest, seconds_to_deadline: float | None
    ) -> Eof:
        """Sync up to a limit, and return the eof.

        The sync runs to its end even if the caller disconnects.
        """
        return await self._in_flight.finish(self._batch(request, _time_of(seconds_to_deadline)))

    def stream(
        self, request: pb.SyncPipelineRequest, seconds_to_deadline: float | None
    ) -> Messages:
        """Sync, and yield every message.

        When the caller disconnects, the sync ends, and every checkpoint seen by then is stored.
        """
        deadline = _time_of(seconds_to_deadline)
        return self._in_flight.relay(lambda send: self._stream(request, deadline, send))

    async def _batch(self, request: pb.SyncPipelineBatchRequest, deadline: float | None) -> Eof:
        plan = await self._planner.plan(request)
        async with self._sessions.open(request.pipeline_id, LeaseKind.SYNC) as session:
            call = await self._begin(request, plan, session, deadline)
            async with call.recorder.storing():
                return await call.finish()

    async def _stream(
        self, request: pb.SyncPipelineRequest, deadline: float | None, send: Send
    ) -> None:
        plan = await self._planner.plan(request)
        async with self._sessions.open(request.pipeline_id, LeaseKind.SYNC) as session:
            call = await self._begin(request, plan, session, deadline)
            await call.relay(send)
        # By now the state of the eof is stored, and the pipeline is free for the next sync.
        if call.end is not None:
            await send(call.end)

    async def _begin(
        self, request: SyncRequest, plan: SyncPlan, session: SyncSession, deadline: float | None
    ) -> SyncCall:
        """Return the sync's call. A requested reset deletes the stored state before."""
        basis = await session.load()
        # The pipeline may have changed since the request was checked.
        while basis.stored.pipeline.etag != plan.etag:
            plan = await self._planner.plan(request)
            basis = await session.load()
        subject = await self._subject(request, plan, basis)
        sent = _given_state(request, plan, basis.state)
        if request.reset_state and not subject.has_overrides:
            basis = await session.reset(basis)
        run_id = request.run_id or uuid.uuid4().hex
        record = RunRecord(basis, sent, run_id=run_id, subject=subject)
        limit = time_limit(request, _seconds_until(deadline))
        if limit is not None:
            plan.options.time_limit.CopyFrom(limit)
        return await session.call(
            basis,
            record,
            plan.options,
            config=plan.config,
            fields=plan.fields,
        )

    async def _subject(self, request: SyncRequest, plan: SyncPlan, basis: SyncBasis) -> Subject:
        account_id = basis.state.account_id
        if not account_id and plan.own_source is not None and not plan.leads_elsewhere:
            account_id = await self._connectors.account_of(plan.own_source)
        return Subject(
            leads_elsewhere=plan.leads_elsewhere,
            has_other_source=request.overrides.HasField("source"),
            has_other_credentials=plan.own_source is not None,
            stored_account_id=account_id,
        )


def _given_state(request: SyncRequest, plan: SyncPlan, stored: StoredState) -> SyncState | None:
    """Return the state that the engine is sent; None to start from nothing."""
    state = None if request.reset_state else stored.state
    if request.overrides.HasField("state"):
        state = SyncState()
        state.CopyFrom(request.overrides.state)
        own = stored.state
        if own is not None and own.destination == state.destination:
            # The position of the inputs stays the service's own, wherever the streams start.
            state.ClearField("inputs_position")
            if own.HasField("inputs_position"):
                state.inputs_position.CopyFrom(own.inputs_position)
    if state is not None and plan.leads_elsewhere:
        # The other destination never received any of the inputs.
        state = states.without_inputs(state)
    return state


def _time_of(seconds_to_deadline: float | None) -> float | None:
    """Return the deadline by the event loop's clock; None without one."""
    if seconds_to_deadline is None:
        return None
    return asyncio.get_running_loop().time() + seconds_to_deadline


def _seconds_until(deadline: float | None) -> float | None:
    """Return the seconds that are left; the wait for the lease may have used some."""
    return None if deadline is None else max(0.0, deadline - asyncio.get_running_loop().time())
