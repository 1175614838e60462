"""The program ``service-server``, which serves until it is terminated, or runs one command."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from pipesync_rpc.channel import CannotOpenChannel
from pipesync_rpc.credentials import CannotListen
from pipesync_server.access import Scope
from pipesync_server.logging import configure_logging
from pipesync_server.program import Termination, run_program
from pipesync_server.settings import EXIT_USAGE, read_settings
from service_server.bootstrap import open_store, running_service, vault_of
from service_server.errors import CannotStart, ServiceError, StoreUnavailable
from service_server.security.rotation import rotate
from service_server.security.token_commands import (
    admit_certificate,
    create_token,
    list_tokens,
    revoke_token,
)
from service_server.settings.commands import (
    CreateTokenSettings,
    ListTokensSettings,
    RevokeTokenSettings,
    RotateKeysSettings,
)
from service_server.settings.service import ServiceSettings
from service_server.settings.store import StoreSettings

_log = structlog.get_logger(__name__)

_Program = Callable[[Termination], Awaitable[None]]


async def serve(settings: ServiceSettings, termination: Termination) -> None:
    """Serve until the process is terminated."""
    async with running_service(settings):
        await termination.wait()


async def rotate_keys(settings: RotateKeysSettings, termination: Termination) -> None:
    """Encrypt the stored secrets with the newest key.

    Raises:
        CannotStart: There is no key, or the process was terminated before the end.
        ServiceError: A stored secret cannot be decrypted, or the database cannot be used.
    """
    if settings.encryption_keys is None:
        raise CannotStart(
            "PIPESYNC_ENCRYPTION_KEYS is not set: it holds the new key, and after it, between"
            " commas, those that are in use"
        )
    vault = vault_of(settings)
    async with open_store(settings) as database:
        rotating = asyncio.create_task(rotate(database, vault))
        terminating = asyncio.create_task(termination.wait())
        await asyncio.wait({rotating, terminating}, return_when=asyncio.FIRST_COMPLETED)
        terminating.cancel()
        rotating.cancel()
        try:
            replaced = await rotating
        except asyncio.CancelledError:
            raise CannotStart(
                "terminated before all secrets were encrypted with the newest key: repeat the"
                " command"
            ) from None
    _log.info("keys_rotated", reencrypted=replaced, key_id=vault.newest_key_id.hex())


async def create(settings: CreateTokenSettings, _: Termination) -> None:
    """Create a token and print it, or admit a certificate.

    Raises:
        CannotStart: Another token has the name, or the certificate is admitted already.
        ServiceError: The database cannot be used.
    """
    if settings.certificate is not None:
        await _admit(settings, settings.certificate)
        return
    async with open_store(settings) as database:
        token = await create_token(
            database,
            name=settings.name,
            scope=Scope(settings.scope),
            prefix=settings.prefix,
            days=settings.days,
        )
    print(token)  # noqa: T201 - the command's output
    _log.info("token_created", name=settings.name, scope=settings.scope, prefix=settings.prefix)


async def _admit(settings: CreateTokenSettings, certificate: str) -> None:
    async with open_store(settings) as database:
        await admit_certificate(
            database,
            name=settings.name,
            certificate=certificate,
            scope=Scope(settings.scope),
            prefix=settings.prefix,
            days=settings.days,
        )
    _log.info(
        "certificate_admitted",
        name=settings.name,
        certificate=certificate,
        scope=settings.scope,
        prefix=settings.prefix,
    )


async def list_all(settings: ListTokensSettings, _: Termination) -> None:
    """Print the tokens and certificates.

    Raises:
        ServiceError: The database cannot be used.
    """
    async with open_store(settings) as database:
        print(await list_tokens(database))  # noqa: T201 - the command's output


async def revoke(settings: RevokeTokenSettings, _: Termination) -> None:
    """Revoke a token or a certificate.

    Raises:
        CannotStart: No token or certificate has the name.
        ServiceError: The database cannot be used.
    """
    async with open_store(settings) as database:
        await revoke_token(database, settings.name)
    _log.info("token_revoked", name=settings.name)


def _commanded(arguments: list[str]) -> tuple[StoreSettings, _Program]:
    """Return the settings and the program that a command line selects."""
    match arguments:
        case ["rotate-keys", *rest]:
            rotating = read_settings(RotateKeysSettings, rest)
            return rotating, partial(rotate_keys, rotating)
        case ["tokens", "create", *rest]:
            creating = read_settings(CreateTokenSettings, rest)
            return creating, partial(create, creating)
        case ["tokens", "list", *rest]:
            listing = read_settings(ListTokensSettings, rest)
            return listing, partial(list_all, listing)
        case ["tokens", "revoke", *rest]:
            revoking = read_settings(RevokeTokenSettings, rest)
            return revoking, partial(revoke, revoking)
        case ["tokens", *_]:
            print(  # noqa: T201 - logging is not set up before the settings are known
                "service-server tokens: give create, list or revoke", file=sys.stderr
            )
            raise SystemExit(EXIT_USAGE)
        case _:
            serving = read_settings(ServiceSettings, arguments)
            return serving, partial(serve, serving)


def main() -> None:
    """Run the program ``service-server``."""
    settings, program = _commanded(sys.argv[1:])
    configure_logging(format=settings.log_format, level=settings.log_level)
    try:
        run_program(program)
    except CannotListen as error:
        _log.error("cannot_listen", reason=str(error))
        sys.exit(1)
    except (CannotStart, ServiceError, CannotOpenChannel, OSError) as error:
        detail = error.database_message if isinstance(error, StoreUnavailable) else ""
        _log.error("cannot_start", reason=f"{error}: {detail}" if detail else str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
