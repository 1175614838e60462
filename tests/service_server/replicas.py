"""Replicas of the service as processes, on one database and one scripted engine."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from pipesync_client import PipelineClient
from service_server.settings.service import ServiceSettings
from tests.processes import ServerProcess, running
from tests.service_server.conftest import KEY


@dataclass(frozen=True, slots=True)
class Replica:
    """A service and its client."""

    process: ServerProcess
    client: PipelineClient


@asynccontextmanager
async def _replica(settings: ServiceSettings, flags: dict[str, object]) -> AsyncIterator[Replica]:
    url = settings.database_url
    assert url is not None
    given = {
        "--listen": "127.0.0.1:0",
        "--engine": settings.engine,
        "--lease-seconds": settings.lease_seconds,
        **flags,
    }
    arguments = [str(part) for flag in given.items() for part in flag]
    environment = {
        "PIPESYNC_DATABASE_URL": url.get_secret_value(),
        "PIPESYNC_ENCRYPTION_KEYS": KEY,
    }
    async with (
        running("service_server", *arguments, environment=environment) as process,
        PipelineClient(process.address) as client,
    ):
        yield Replica(process, client)


def replica(settings: ServiceSettings, **flags: object) -> AbstractAsyncContextManager[Replica]:
    """Start one more service; flags are its settings, e.g. ``step_seconds=1``."""
    return _replica(
        settings, {f"--{name.replace('_', '-')}": value for name, value in flags.items()}
    )
