"""service-server: puts the service together and serves it until it is told to end."""

import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import structlog

from pipesync.v1.pipeline_service_pb2 import DESCRIPTOR
from pipesync.v1.pipeline_service_pb2_grpc import add_PipelineServiceServicer_to_server
from pipesync_client import EngineClient
from pipesync_rpc.channel import InsecureToken
from pipesync_rpc.credentials import CannotListen
from pipesync_rpc.logging import configure_logging
from pipesync_rpc.program import Termination, run_program
from pipesync_rpc.server import RpcServer
from pipesync_rpc.settings import read_settings
from service_server.connectors import Connectors
from service_server.embedded import embedded_postgres
from service_server.engine import Engine
from service_server.errors import CannotStart, ServiceError
from service_server.in_flight import InFlight
from service_server.leases import LeaseKeeper
from service_server.lifecycle.machine import Pace
from service_server.lifecycle.runner import Runner
from service_server.lifecycle.situation import Situations
from service_server.lifecycle.steps import Steps
from service_server.lifecycle.turns import Turns
from service_server.operations import Operations
from service_server.pipelines import Pipelines
from service_server.pruning import pruning
from service_server.secrets import Vault, key_from_file, parse_keys
from service_server.servicer import PipelineServicer
from service_server.settings import ServiceSettings
from service_server.store.database import Database
from service_server.store.lifecycles import DUE_CHANNEL
from service_server.store.migrate import migrate
from service_server.store.notifications import PIPELINES_CHANNEL, Notifications
from service_server.sync import Syncs
from service_server.watching import Watches

log = structlog.get_logger()


@asynccontextmanager
async def running_service(settings: ServiceSettings) -> AsyncIterator[RpcServer]:
    """Puts the service together and serves it for the length of the body, then drains.

    Raises:
        CannotStart: Something that the service stands on is missing.
        CannotListen: The address is taken, or not safe to listen on.
        ServiceError: The database cannot be used.
        InsecureToken: The engine's token would travel in plain text.
        OSError: A PEM file cannot be read.
    """
    async with AsyncExitStack() as stack:
        if settings.database_url is not None:
            url = settings.database_url.get_secret_value()
        else:
            url = await stack.enter_async_context(embedded_postgres(settings.data_dir))
        database = await stack.enter_async_context(Database.open(url))
        await migrate(database)
        client = EngineClient(
            settings.engine,
            tls=settings.client_tls,
            token=settings.engine_token.get_secret_value() if settings.engine_token else None,
        )
        engine = Engine(await stack.enter_async_context(client), settings.engine)
        connectors = Connectors(engine)
        leases = LeaseKeeper(
            database,
            holder=f"{socket.gethostname()}:{os.getpid()}",
            duration=settings.lease_duration,
        )
        in_flight = InFlight()
        stack.push_async_callback(in_flight.drain, settings.drain_seconds)
        pipelines = Pipelines(database, engine, connectors, _vault(settings))
        operations = Operations(
            pipelines=pipelines,
            engine=engine,
            connectors=connectors,
            database=database,
            leases=leases,
            in_flight=in_flight,
            patience=settings.patience,
        )
        syncs = Syncs(
            pipelines=pipelines,
            engine=engine,
            connectors=connectors,
            database=database,
            leases=leases,
            in_flight=in_flight,
        )
        await stack.enter_async_context(pruning(database, timedelta(days=settings.keep_runs_days)))
        watches = Watches(pipelines)
        notifications = Notifications(url)
        notifications.listen(PIPELINES_CHANNEL, watches.note_change)
        runner = _runner(settings, pipelines, engine, database, leases)
        if runner is not None:
            await stack.enter_async_context(runner.running(settings.drain_seconds))
            notifications.listen(DUE_CHANNEL, runner.look)
        await stack.enter_async_context(notifications.listening())
        servicer = PipelineServicer(  # type: ignore[abstract]  # lacks what is UNIMPLEMENTED
            engine=engine,
            pipelines=pipelines,
            operations=operations,
            syncs=syncs,
            watches=watches,
        )

        def end_softly() -> None:
            syncs.end_softly()
            watches.end()
            if runner is not None:
                runner.end_softly()

        yield await stack.enter_async_context(
            RpcServer(
                listen=settings.listen,
                register=lambda server: add_PipelineServiceServicer_to_server(servicer, server),
                service_names=[DESCRIPTOR.services_by_name["PipelineService"].full_name],
                tls=settings.tls,
                token_hashes=settings.token_hashes,
                on_drain=end_softly,
                grace=settings.drain_seconds,
                max_concurrent_calls=settings.max_concurrent_calls,
            )
        )


async def serve(settings: ServiceSettings, termination: Termination) -> None:
    """Serves until the process is asked to end."""
    async with running_service(settings):
        await termination.wait()


def _runner(
    settings: ServiceSettings,
    pipelines: Pipelines,
    engine: Engine,
    database: Database,
    leases: LeaseKeeper,
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
        steps=Steps(pipelines=pipelines, engine=engine, database=database, pace=pace),
        database=database,
        leases=leases,
        pace=pace,
    )
    return Runner(
        database=database,
        turns=turns,
        most_at_once=settings.max_running_pipelines,
        claim=settings.claim_duration,
    )


def _vault(settings: ServiceSettings) -> Vault:
    if settings.encryption_keys is not None:
        return Vault(parse_keys(settings.encryption_keys.get_secret_value()))
    return Vault([key_from_file(settings.data_dir / "encryption.key")])


def main() -> None:
    """The program ``service-server``."""
    settings = read_settings(ServiceSettings)
    configure_logging(format=settings.log_format, level=settings.log_level)
    try:
        run_program(lambda termination: serve(settings, termination))
    except CannotListen as error:
        log.error("cannot_listen", reason=str(error))
        sys.exit(1)
    except (CannotStart, ServiceError, InsecureToken, OSError) as error:
        log.error("cannot_start", reason=str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
