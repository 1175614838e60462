"""service-server: serves until it is told to end, or encrypts anew what is stored."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from pipesync_rpc.channel import CannotOpenChannel
from pipesync_rpc.credentials import CannotListen
from pipesync_rpc.logging import configure_logging
from pipesync_rpc.program import Termination, run_program
from pipesync_rpc.settings import read_settings
from service_server.assembly import open_store, running_service, vault_of
from service_server.errors import CannotStart, ServiceError, StoreUnavailable
from service_server.rotation import rotate
from service_server.settings import RotateKeysSettings, ServiceSettings, StoreSettings

log = structlog.get_logger()


async def serve(settings: ServiceSettings, termination: Termination) -> None:
    """Serves until the process is asked to end."""
    async with running_service(settings):
        await termination.wait()


async def rotate_keys(settings: RotateKeysSettings, termination: Termination) -> None:
    """Encrypts with the newest key what is stored under older ones.

    Raises:
        CannotStart: There is no key, or it was told to end before it was done.
        ServiceError: Something stored cannot be read, or the database cannot be used.
    """
    if settings.encryption_keys is None:
        raise CannotStart(
            "PIPESYNC_ENCRYPTION_KEYS is not set: it holds the new key, and after it, between"
            " commas, those that are in use"
        )
    vault = vault_of(settings)
    async with open_store(settings) as database:
        rotating = asyncio.create_task(rotate(database, vault))
        asked_to_end = asyncio.create_task(termination.wait())
        await asyncio.wait({rotating, asked_to_end}, return_when=asyncio.FIRST_COMPLETED)
        asked_to_end.cancel()
        rotating.cancel()
        try:
            replaced = await rotating
        except asyncio.CancelledError:
            raise CannotStart("told to end before all was encrypted anew: repeat it") from None
    log.info("keys_rotated", reencrypted=replaced, key_id=vault.newest_key_id.hex())


def main() -> None:
    """The program ``service-server``."""
    program: Callable[[Termination], Awaitable[None]]
    settings: StoreSettings
    if sys.argv[1:2] == ["rotate-keys"]:
        settings = read_settings(RotateKeysSettings, sys.argv[2:])
        program = partial(rotate_keys, settings)
    else:
        settings = read_settings(ServiceSettings)
        program = partial(serve, settings)
    configure_logging(format=settings.log_format, level=settings.log_level)
    try:
        run_program(program)
    except CannotListen as error:
        log.error("cannot_listen", reason=str(error))
        sys.exit(1)
    except (CannotStart, ServiceError, CannotOpenChannel, OSError) as error:
        said = error.database_message if isinstance(error, StoreUnavailable) else ""
        log.error("cannot_start", reason=f"{error}: {said}" if said else str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
