"""Puts the service together, out of parts that know nothing of each other's making."""

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
from pipesync_rpc.server import RpcServer
from service_server.connectors import Connectors
from service_server.embedded import embedded_postgres
from service_server.engine import Engine
from service_server.heartbeats import Heartbeats
from service_server.http import HttpServer
from service_server.in_flight import InFlight
from service_server.leases import LeaseKeeper
from service_server.lifecycle.machine import Pace
from service_server.lifecycle.runner import Runner
from service_server.lifecycle.situation import Situations
from service_server.lifecycle.steps import Steps
from service_server.lifecycle.turns import Turns
from service_server.metrics import Metrics
from service_server.operations import Operations
from service_server.parts import Parts
from service_server.pipelines import Pipelines
from service_server.pruning import pruning
from service_server.rejected_records import RejectedRecords
from service_server.secrets import Vault, key_from_file, parse_keys
from service_server.servicer import PipelineServicer
from service_server.settings import ServiceSettings, StoreSettings
from service_server.store.database import Database
from service_server.store.inbox import CHANNEL as INBOX_CHANNEL
from service_server.store.lifecycles import DUE_CHANNEL
from service_server.store.migrate import migrate
from service_server.store.notifications import PIPELINES_CHANNEL, Notifications
from service_server.store.poolers import require_sessions
from service_server.sync import Syncs
from service_server.watchdog import Watchdog
from service_server.watching import Watches
from service_server.webhooks.applier import InboxApplier
from service_server.webhooks.events import WebhookEvents
from service_server.webhooks.group_commit import GroupCommit
from service_server.webhooks.intake import Intake
from service_server.webhooks.secrets import SecretsByPipeline
from service_server.webhooks.simulation import Simulations
from service_server.webhooks.worker import InboxWorker


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningService:
    """A service that is up.

    Attributes:
        address: Where it serves gRPC.
        http_address: Where it serves HTTP, e.g. ``http://127.0.0.1:8080``.
    """

    address: str
    http_address: str


@asynccontextmanager
async def open_store(settings: StoreSettings) -> AsyncIterator[Database]:
    """The service's database, its tables up to date.

    Raises:
        CannotStart: There is no embedded Postgres, or the tables cannot be brought up to date.
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
    """Puts the service together and serves it for the length of the body, then drains.

    Raises:
        CannotStart: Something that the service stands on is missing.
        CannotListen: The address is taken, or not safe to listen on.
        ServiceError: The database cannot be used.
        CannotOpenChannel: The engine's token would travel in plain text, or its proxy is none.
        OSError: A PEM file cannot be read.
    """
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_store(settings))
        client = EngineClient(
            settings.engine,
            tls=settings.client_tls,
            token=settings.engine_token.get_secret_value() if settings.engine_token else None,
            proxy=settings.engine_proxy.get_secret_value() if settings.engine_proxy else None,
        )
        engine = Engine(await stack.enter_async_context(client), settings.engine)
        connectors = Connectors(engine)
        heartbeats = Heartbeats(patience=settings.loop_patience_seconds)
        leases = LeaseKeeper(
            database,
            holder=f"{socket.gethostname()}:{os.getpid()}",
            duration=settings.lease_duration,
            heartbeats=heartbeats,
        )
        metrics = Metrics(heartbeats)
        in_flight = InFlight()
        stack.push_async_callback(in_flight.drain, settings.drain_seconds)
        pipelines = Pipelines(database, engine, connectors, vault_of(settings), leases)
        parts = Parts(
            pipelines=pipelines,
            engine=engine,
            connectors=connectors,
            database=database,
            leases=leases,
            in_flight=in_flight,
            metrics=metrics,
            heartbeats=heartbeats,
        )
        operations = Operations(parts, patience=settings.patience)
        syncs, simulations = Syncs(parts), Simulations(parts)
        new_applier = partial(
            InboxApplier,
            pipelines=pipelines,
            engine=engine,
            database=database,
            leases=leases,
            metrics=metrics,
            most_attempts=settings.webhook_attempts,
        )
        inbox_worker = await stack.enter_async_context(
            InboxWorker.running(
                database,
                new_applier(),
                retention=settings.webhook_retention,
                grace=settings.drain_seconds,
                heartbeats=heartbeats,
            )
        )
        group_commit = await stack.enter_async_context(GroupCommit.open(database, heartbeats))
        intake = Intake(SecretsByPipeline(pipelines, engine), group_commit, metrics)
        http = await stack.enter_async_context(
            HttpServer(
                listen=settings.http,
                intake=intake,
                database=database,
                metrics=metrics,
                heartbeats=heartbeats,
                tls=settings.tls,
                token_hashes=settings.token_hashes,
                grace=settings.drain_seconds,
            )
        )
        keep_runs = timedelta(days=settings.keep_runs_days)
        await stack.enter_async_context(pruning(database, keep_runs, heartbeats))
        watches = Watches(pipelines)
        session_url = settings.database_session_url
        notifications = Notifications(
            database,
            session_url.get_secret_value() if session_url is not None else None,
            heartbeats,
        )
        notifications.listen(PIPELINES_CHANNEL, watches.note_change)
        notifications.listen(INBOX_CHANNEL, inbox_worker.look)
        applier_of_turns = new_applier(waits_for_others=True)
        runner = _runner(
            settings, pipelines, engine, database, leases, applier_of_turns, metrics, heartbeats
        )
        if runner is not None:
            await stack.enter_async_context(runner.running(settings.drain_seconds))
            notifications.listen(DUE_CHANNEL, runner.look)
        await stack.enter_async_context(notifications.listening())
        servicer = PipelineServicer(
            engine=engine,
            pipelines=pipelines,
            operations=operations,
            syncs=syncs,
            intake=intake,
            webhook_events=WebhookEvents(database, pipelines),
            simulations=simulations,
            rejected_records=RejectedRecords(parts, patience=settings.patience),
            watches=watches,
        )

        def on_drain() -> None:
            http.drain()
            syncs.end_softly()
            simulations.end_softly()
            watches.end()
            if runner is not None:
                runner.end_softly()

        server = await stack.enter_async_context(
            RpcServer(
                listen=settings.listen,
                register=lambda server: add_PipelineServiceServicer_to_server(servicer, server),
                service_names=[DESCRIPTOR.services_by_name["PipelineService"].full_name],
                tls=settings.tls,
                token_hashes=settings.token_hashes,
                on_drain=on_drain,
                grace=settings.drain_seconds,
                max_concurrent_calls=settings.max_concurrent_calls,
                observe=metrics.observe_rpc,
                is_well=lambda: not heartbeats.standing_still(),
            )
        )
        watchdog = Watchdog(heartbeats, server.refresh_health)
        await stack.enter_async_context(watchdog.watching())
        yield RunningService(address=server.address, http_address=http.address)


def _runner(
    settings: ServiceSettings,
    pipelines: Pipelines,
    engine: Engine,
    database: Database,
    leases: LeaseKeeper,
    inbox: InboxApplier,
    metrics: Metrics,
    heartbeats: Heartbeats,
) -> Runner | None:
    if not settings.max_running_pipelines:
        return None
    pace = Pace(
        step=timedelta(seconds=settings.step_seconds),
        poll=timedelta(seconds=settings.poll_seconds),
        read=timedelta(seconds=settings.read_seconds),
        reconcile=timedelta(days=settings.reconcile_days),
        retry=timedelta(seconds=settings.retry_seconds),
        longest_retry=timedelta(seconds=settings.longest_retry_seconds),
    )
    turns = Turns(
        situations=Situations(pipelines=pipelines, engine=engine, database=database),
        steps=Steps(
            pipelines=pipelines, engine=engine, database=database, pace=pace, metrics=metrics
        ),
        database=database,
        leases=leases,
        pace=pace,
        inbox=inbox,
    )
    return Runner(
        database=database,
        turns=turns,
        most_at_once=settings.max_running_pipelines,
        claim=settings.claim_duration,
        heartbeats=heartbeats,
    )


def vault_of(settings: StoreSettings) -> Vault:
    """What encrypts: with the keys that are given, else with one that is kept in a file."""
    if settings.encryption_keys is not None:
        return Vault(parse_keys(settings.encryption_keys.get_secret_value()))
    return Vault([key_from_file(settings.data_dir / "encryption.key")])
