"""The program ``engine-server``: builds the engine and serves it until it is terminated."""

import sys

import structlog

from engine_server.access import POLICY
from engine_server.budgets import BUDGETS
from engine_server.connectors.registry import ConnectorRegistry
from engine_server.servicer import EngineServicer
from engine_server.settings import EngineSettings
from pipesync.v1.engine_service_pb2 import CONNECTOR_SIDE_UNSPECIFIED, DESCRIPTOR
from pipesync.v1.engine_service_pb2_grpc import add_EngineServiceServicer_to_server
from pipesync_postgres.password_command import PasswordCommands
from pipesync_rpc.credentials import CannotListen
from pipesync_server.budgets import Budgets
from pipesync_server.logging import configure_logging
from pipesync_server.program import Termination, run_program
from pipesync_server.server import RpcServer
from pipesync_server.settings import read_settings

_log = structlog.get_logger(__name__)

# Seconds after which the connection of an unresponsive caller is closed. That caller stores no more
# states of its syncs, which must end before another caller takes over, after ten seconds or more.
_SILENCE = 6.0


async def serve(settings: EngineSettings, termination: Termination) -> None:
    """Serve until termination is requested, then drain.

    Raises:
        CannotListen: The address is in use, or not safe to listen on.
    """
    registry = ConnectorRegistry.installed(
        secrets_directory=settings.secrets_directory,
        password_commands=PasswordCommands(settings.password_command),
        reach=settings.reach,
    )
    # Load all connectors now, so that no sync waits for that.
    registry.describe_all(CONNECTOR_SIDE_UNSPECIFIED)
    servicer = EngineServicer(registry)
    server = RpcServer(
        listen=settings.listen,
        register=lambda server: add_EngineServiceServicer_to_server(servicer, server),
        service_names=[DESCRIPTOR.services_by_name["EngineService"].full_name],
        tls=settings.tls,
        token_hashes=settings.token_hashes,
        client_certificates=settings.client_certificates,
        policy=POLICY,
        on_drain=servicer.request_shutdown,
        grace=settings.drain_seconds,
        budgets=Budgets(settings.budget_plan, BUDGETS),
        trusted_proxies=settings.trusted_proxies,
        request_seconds=settings.request_seconds,
        silence=_SILENCE,
    )
    async with registry.lifespan(), server:
        await termination.wait()


def main() -> None:
    """Run ``engine-server``."""
    settings = read_settings(EngineSettings)
    configure_logging(format=settings.log_format, level=settings.log_level)
    try:
        run_program(lambda termination: serve(settings, termination))
    except CannotListen as error:
        _log.error("cannot_listen", reason=str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
