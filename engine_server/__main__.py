"""engine-server: puts the engine together and serves it until it is told to end."""

import sys

import structlog

from engine_server.connectors.registry import ConnectorRegistry
from engine_server.servicer import EngineServicer
from engine_server.settings import EngineSettings
from pipesync.v1.engine_service_pb2 import CONNECTOR_SIDE_UNSPECIFIED, DESCRIPTOR
from pipesync.v1.engine_service_pb2_grpc import add_EngineServiceServicer_to_server
from pipesync_postgres.password_command import PasswordCommands
from pipesync_rpc.credentials import CannotListen
from pipesync_rpc.logging import configure_logging
from pipesync_rpc.program import Termination, run_program
from pipesync_rpc.server import RpcServer
from pipesync_rpc.settings import read_settings

log = structlog.get_logger()

# A caller that has stood still for so many seconds stores nothing of its syncs any more: they are
# to end before somebody else's begin, who waits for ten seconds at least.
_SILENCE = 6.0


async def serve(settings: EngineSettings, termination: Termination) -> None:
    """Serves until the process is asked to end, then drains.

    Raises:
        CannotListen: The address is taken, or not safe to listen on.
    """
    registry = ConnectorRegistry.installed(
        secrets_directory=settings.secrets_directory,
        password_commands=PasswordCommands(settings.password_command),
    )
    # Loads them all, so that no sync has to wait for it.
    registry.describe_all(CONNECTOR_SIDE_UNSPECIFIED)
    servicer = EngineServicer(registry)
    server = RpcServer(
        listen=settings.listen,
        register=lambda server: add_EngineServiceServicer_to_server(servicer, server),
        service_names=[DESCRIPTOR.services_by_name["EngineService"].full_name],
        tls=settings.tls,
        token_hashes=settings.token_hashes,
        on_drain=servicer.end_softly,
        grace=settings.drain_seconds,
        max_concurrent_calls=settings.max_concurrent_calls,
        silence=_SILENCE,
    )
    async with registry.kept_open(), server:
        await termination.wait()


def main() -> None:
    """The program ``engine-server``."""
    settings = read_settings(EngineSettings)
    configure_logging(format=settings.log_format, level=settings.log_level)
    try:
        run_program(lambda termination: serve(settings, termination))
    except CannotListen as error:
        log.error("cannot_listen", reason=str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
