"""Bootstrap of the service, which creates its objects and connects them."""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from pipesync.v1.pipeline_service_pb2 import DESCRIPTOR
from pipesync.v1.pipeline_service_pb2_grpc import add_PipelineServiceServicer_to_server
from pipesync_client import EngineClient
from pipesync_rpc.client_interceptor import no_further_metadata
from pipesync_rpc.context import confined_to_pipeline
from pipesync_rpc.credentials import CannotListen
from pipesync_server.budgets import Budgets
from pipesync_server.client_address import TrustedProxies
from pipesync_server.failed_logins import LimitedLogins
from pipesync_server.server import RpcServer
from service_server.background.fair_shares import FairShares
from service_server.background.heartbeats import Heartbeats
from service_server.background.watchdog import Watchdog
from service_server.budgets import BUDGETS, MOST_REQUEST_BYTES
from service_server.configuration.connectors import Connectors
from service_server.embedded_postgres.embedded import embedded_postgres
from service_server.engine import Engine
from service_server.http import HttpLimits, HttpServer
from service_server.leases.in_flight import InFlight
from service_server.leases.leases import LeaseKeeper
from service_server.lifecycle.context import StepContextLoader
from service_server.lifecycle.executor import StepExecutor
from service_server.lifecycle.machine import Intervals
from service_server.lifecycle.scheduler import Scheduler
from service_server.lifecycle.steps import Steps
from service_server.metrics import Metrics
from service_server.pipelines.listing import PipelineListing
from service_server.pipelines.operations import Operations
from service_server.pipelines.pipelines import Pipelines
from service_server.pipelines.rejected_records import RejectedRecords
from service_server.pipelines.watching import Watches
from service_server.pruning import pruning_events, pruning_runs
from service_server.security.access import PipelineAccess
from service_server.security.secrets import Vault, key_from_file, parse_keys
from service_server.security.tokens import Tokens
from service_server.servicer import PipelineServicer
from service_server.settings.service import ServiceSettings
from service_server.settings.store import StoreSettings
from service_server.store.database import Database
from service_server.store.inbox import CHANNEL as INBOX_CHANNEL
from service_server.store.lifecycles import DUE_CHANNEL
from service_server.store.migrate import migrate
from service_server.store.notifications import PIPELINES_CHANNEL, Notifications
from service_server.store.poolers import require_sessions
from service_server.sync.planning import SyncPlanner
from service_server.sync.sessions import SyncSessions
from service_server.sync.sync import Syncs
from service_server.webhooks.applier import InboxApplier
from service_server.webhooks.events import WebhookEvents
from service_server.webhooks.group_commit import GroupCommit
from service_server.webhooks.receiver import WebhookReceiver
from service_server.webhooks.refusals import Refusals
from service_server.webhooks.secrets import SecretsByPipeline
from service_server.webhooks.simulation import Simulations
from service_server.webhooks.worker import InboxWorker


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningService:
    """A running service.

    Attributes:
        address: Address of its gRPC server.
        http_address: URL of its HTTP server, e.g. ``http://127.0.0.1:8080``.
    """

    address: str
    http_address: str


@asynccontextmanager
async def open_store(settings: StoreSettings) -> AsyncIterator[Database]:
    """Open the service's database during the body, after its migrations.

    Raises:
        CannotStart: The embedded Postgres is not available, or a migration fails.
        ServiceError: The database cannot be used.
    """
    async with AsyncExitStack() as stack:
        if settings.database_url is not None:
            url = settings.database_url.get_secret_value()
        else:
            url = await stack.enter_async_context(embedded_postgres(settings.data_dir))
        database = await stack.enter_async_context(
            Database.open(url, password_command=settings.password_command)
        )
        if settings.database_session_url is None:
            await migrate(database)
        else:
            session_url = settings.database_session_url.get_secret_value()
            async with Database.open(
                session_url, max_connections=2, password_command=database.password_command
            ) as direct:
                await require_sessions(direct, database)
                await migrate(direct)
        yield database


@asynccontextmanager
async def running_service(settings: ServiceSettings) -> AsyncIterator[RunningService]:
    """Run the service during the body, and drain it at the end.

    Raises:
        CannotStart: A prerequisite of the service is missing.
        CannotListen: The address is in use, or not safe to listen on.
        ServiceError: The database cannot be used.
        CannotOpenChannel: The engine's token would be sent in plain text, or the proxy is invalid.
        OSError: A PEM file cannot be read.
    """
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_store(settings))
        client = EngineClient(
            settings.engine,
            tls=settings.client_tls,
            token=settings.engine_token.get_secret_value() if settings.engine_token else None,
            proxy=settings.engine_proxy.get_secret_value() if settings.engine_proxy else None,
            metadata=confined_to_pipeline if settings.confines_pipelines else no_further_metadata,
        )
        engine = Engine(await stack.enter_async_context(client), settings.engine)
        connectors = Connectors(engine)
        heartbeats = Heartbeats(timeout=settings.loop_patience_seconds)
        leases = LeaseKeeper(
            database,
            holder=f"{socket.gethostname()}:{os.getpid()}",
            duration=settings.lease_duration,
            heartbeats=heartbeats,
        )
        budgets = Budgets(settings.budget_plan, BUDGETS)
        metrics = Metrics(heartbeats, budgets)
        tokens = await stack.enter_async_context(
            Tokens.open(
                database,
                settings.token_hashes,
                heartbeats,
                certificates=settings.client_certificates,
            )
        )
        if settings.tls_client_ca is not None and not tokens.are_asked_for:
            raise CannotListen(
                "a client CA alone would make an operator of everybody for whom it signs: name the"
                " operators' certificates with --client-certificates, or run: service-server tokens"
                " create NAME --scope SCOPE --certificate NAME-IN-THE-CERTIFICATE"
            )
        logins = LimitedLogins(tokens, metrics.count_failed_login)
        in_flight = InFlight()
        stack.push_async_callback(in_flight.drain, settings.drain_seconds)
        pipelines = Pipelines(database, engine, connectors, vault_of(settings), leases)
        operations = Operations(
            pipelines=pipelines,
            engine=engine,
            connectors=connectors,
            database=database,
            leases=leases,
            in_flight=in_flight,
            lease_timeout=settings.lease_timeout,
        )
        rejected_records = RejectedRecords(
            pipelines=pipelines,
            engine=engine,
            leases=leases,
            in_flight=in_flight,
            lease_timeout=settings.lease_timeout,
        )
        sessions = SyncSessions(
            pipelines=pipelines,
            engine=engine,
            connectors=connectors,
            database=database,
            leases=leases,
            metrics=metrics,
            heartbeats=heartbeats,
        )
        syncs = Syncs(
            sessions=sessions,
            planner=SyncPlanner(pipelines=pipelines, engine=engine, connectors=connectors),
            connectors=connectors,
            in_flight=in_flight,
        )
        new_applier = partial(
            InboxApplier,
            sessions=sessions,
            database=database,
            metrics=metrics,
            most_attempts=settings.webhook_attempts,
        )
        inbox_worker = await stack.enter_async_context(
            InboxWorker.running(
                database,
                new_applier(),
                grace=settings.drain_seconds,
                heartbeats=heartbeats,
                prefixes=tokens.prefixes,
            )
        )
        group_commit = await stack.enter_async_context(GroupCommit.open(database, heartbeats))
        secrets = SecretsByPipeline(database, pipelines, engine)
        refusals = Refusals(settings.webhook_refusals_per_second)
        receiver = WebhookReceiver(secrets, group_commit, metrics, refusals)
        http = await stack.enter_async_context(
            HttpServer(
                listen=settings.http,
                receiver=receiver,
                database=database,
                metrics=metrics,
                heartbeats=heartbeats,
                tls=settings.tls,
                token_hashes=tokens.hashes,
                authenticator=logins,
                grace=settings.drain_seconds,
                limits=_http_limits(settings),
                proxies=TrustedProxies(settings.trusted_proxies),
            )
        )
        keep_runs = timedelta(days=settings.keep_runs_days)
        await stack.enter_async_context(pruning_runs(database, keep_runs, heartbeats))
        await stack.enter_async_context(
            pruning_events(database, settings.webhook_retention, heartbeats)
        )
        watches = Watches(pipelines)
        session_url = settings.database_session_url
        notifications = Notifications(
            database,
            session_url.get_secret_value() if session_url is not None else None,
            heartbeats,
        )
        notifications.listen(PIPELINES_CHANNEL, watches.note_change)
        notifications.listen(PIPELINES_CHANNEL, secrets.note_change)
        notifications.listen(INBOX_CHANNEL, inbox_worker.wake)
        lifecycle_applier = new_applier(waits_for_others=True)
        runner = _runner(
            settings, pipelines, engine, database, sessions, lifecycle_applier, tokens, heartbeats
        )
        if runner is not None:
            await stack.enter_async_context(runner.running(settings.drain_seconds))
            notifications.listen(DUE_CHANNEL, runner.wake)
        await stack.enter_async_context(notifications.listening())
        servicer = PipelineServicer(
            engine=engine,
            pipelines=pipelines,
            listing=PipelineListing(database),
            operations=operations,
            syncs=syncs,
            receiver=receiver,
            webhook_events=WebhookEvents(database, pipelines),
            simulations=Simulations(sessions, pipelines, in_flight),
            rejected_records=rejected_records,
            watches=watches,
        )

        def on_drain() -> None:
            http.drain()
            sessions.request_shutdown()
            watches.end()
            if runner is not None:
                runner.request_shutdown()

        server = await stack.enter_async_context(
            RpcServer(
                listen=settings.listen,
                register=lambda server: add_PipelineServiceServicer_to_server(servicer, server),
                service_names=[DESCRIPTOR.services_by_name["PipelineService"].full_name],
                tls=settings.tls,
                token_hashes=tokens.hashes,
                authenticator=logins,
                policy=PipelineAccess(),
                on_drain=on_drain,
                grace=settings.drain_seconds,
                budgets=budgets,
                trusted_proxies=settings.trusted_proxies,
                request_seconds=settings.request_seconds,
                request_slots=settings.request_slots,
                most_request_bytes=MOST_REQUEST_BYTES,
                observe=metrics.observe_rpc,
                is_healthy=lambda: not heartbeats.stalled_loops(),
            )
        )
        tokens.on_change(lambda: server.end_calls(tokens.is_valid))
        watchdog = Watchdog(heartbeats, server.refresh_health)
        await stack.enter_async_context(watchdog.watching())
        yield RunningService(address=server.address, http_address=http.address)


def _http_limits(settings: ServiceSettings) -> HttpLimits:
    memory = int(settings.max_webhook_memory_mib * 1024 * 1024)
    return HttpLimits(
        most_connections=settings.max_http_connections,
        most_per_address=settings.max_http_connections_per_address,
        idle_timeout=settings.http_idle_seconds,
        most_body_memory=memory,
        most_body_memory_per_address=memory // 4,
    )


def _runner(
    settings: ServiceSettings,
    pipelines: Pipelines,
    engine: Engine,
    database: Database,
    sessions: SyncSessions,
    inbox: InboxApplier,
    tokens: Tokens,
    heartbeats: Heartbeats,
) -> Scheduler | None:
    if not settings.max_running_pipelines:
        return None
    intervals = Intervals(
        step=timedelta(seconds=settings.step_seconds),
        poll=timedelta(seconds=settings.poll_seconds),
        read=timedelta(seconds=settings.read_seconds),
        reconcile=timedelta(days=settings.reconcile_days),
        retry=timedelta(seconds=settings.retry_seconds),
        max_retry=timedelta(seconds=settings.longest_retry_seconds),
    )
    executor = StepExecutor(
        contexts=StepContextLoader(pipelines=pipelines, engine=engine, database=database),
        steps=Steps(pipelines=pipelines, engine=engine, intervals=intervals),
        sessions=sessions,
        intervals=intervals,
        inbox=inbox,
    )
    return Scheduler(
        database=database,
        executor=executor,
        places=FairShares(settings.max_running_pipelines, tokens.prefixes),
        claim=settings.claim_duration,
        heartbeats=heartbeats,
    )


def vault_of(settings: StoreSettings) -> Vault:
    """Return the vault with the configured keys, or with the key in the data directory's file."""
    if settings.encryption_keys is not None:
        return Vault(parse_keys(settings.encryption_keys.get_secret_value()))
    return Vault([key_from_file(settings.data_dir / "encryption.key")])
