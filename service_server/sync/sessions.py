"""Sessions of all pipelines, one of each pipeline at a time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from service_server.background.heartbeats import Heartbeats
from service_server.configuration.connectors import Connectors
from service_server.engine import Engine
from service_server.leases.leases import LeaseKeeper
from service_server.metrics import Metrics
from service_server.pipelines.pipelines import Pipelines
from service_server.store.database import Database
from service_server.store.leases import LeaseKind
from service_server.sync.basis import BasisLoader
from service_server.sync.graceful_shutdown import GracefulShutdown
from service_server.sync.session import SyncSession


class SyncSessions:
    """Opens sessions of pipelines."""

    def __init__(
        self,
        *,
        pipelines: Pipelines,
        engine: Engine,
        connectors: Connectors,
        database: Database,
        leases: LeaseKeeper,
        metrics: Metrics,
        heartbeats: Heartbeats,
    ) -> None:
        """Initialize without a session.

        Args:
            pipelines: The stored pipelines.
            engine: The engine, which does the work.
            connectors: The specs of the connectors, which say which fields are secret.
            database: The database with states and runs.
            leases: Keeper of the leases, which decide which sessions exclude each other.
            metrics: Metrics that count running syncs and dead letters.
            heartbeats: Registry for the heartbeats of the loops that store.
        """
        self._leases = leases
        self._shutdown = GracefulShutdown()
        self._new_session = partial(
            SyncSession,
            loader=BasisLoader(pipelines, database),
            leases=leases,
            pipelines=pipelines,
            engine=engine,
            connectors=connectors,
            metrics=metrics,
            heartbeats=heartbeats,
            shutdown=self._shutdown,
        )

    def request_shutdown(self) -> None:
        """End every streamed call now, with ``has_more`` and the latest checkpoint as its state."""
        self._shutdown.request_shutdown()

    @asynccontextmanager
    async def open(
        self, pipeline_id: str, kind: LeaseKind, *, waits_for_applier: bool = True
    ) -> AsyncIterator[SyncSession]:
        """Hold a lease of a pipeline during the body.

        Args:
            pipeline_id: The pipeline.
            kind: Kind of the lease.
            waits_for_applier: As for ``LeaseKeeper.hold``.

        Raises:
            SyncInProgress: Another session excludes this one.
            PipelineNotFound: There is no such pipeline.
            LeaseLost: Another process took the lease over, or it was not renewed in time.
        """
        async with self._leases.hold(
            pipeline_id, kind=kind, waits_for_applier=waits_for_applier
        ) as lease:
            yield self._new_session(lease)
