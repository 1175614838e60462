"""Rotation of keys: encryption of stored secrets with the newest key."""

from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from service_server.errors import SecretsUnreadable
from service_server.security.secrets import Vault, key_id_of
from service_server.store import sealed
from service_server.store.database import Database

# Envelopes that one transaction replaces: a service that writes one of the rows waits for it.
_BATCH = 100
# Pipelines that an error names for each key.
_NAMED = 20


async def rotate(database: Database, vault: Vault) -> int:
    """Encrypt all envelopes that are under other keys with the newest key.

    Each batch is a transaction, and an envelope that was replaced meanwhile is read again. So the
    rotation may run beside services, and may be interrupted and repeated.

    Returns:
        The number of replaced envelopes.

    Raises:
        SecretsUnreadable: An envelope cannot be decrypted. Nothing was replaced, unless the
            envelope was stored during the rotation.
        StoreUnavailable: The database became unavailable; earlier batches are committed.
    """
    await _require_readable(database, vault)
    replaced = 0
    for place in sealed.PLACES:
        while passed := await _pass(database, vault, place):
            replaced += sum(passed)
    return replaced


async def _pass(database: Database, vault: Vault, place: str) -> list[int]:
    """Return the number of replaced envelopes per batch; empty if all are under the newest key."""
    replaced = []
    async with aclosing(_batches(database, vault, place)) as batches:
        async for batch in batches:
            replacements = [
                sealed.Replacement(sealed=one, envelope=_sealed_anew(vault, one)) for one in batch
            ]
            async with database.transaction() as connection:
                replaced.append(await sealed.replace(connection, place, replacements))
    return replaced


async def _batches(
    database: Database, vault: Vault, place: str
) -> AsyncGenerator[list[sealed.Sealed], None]:
    after = ""
    while True:
        async with database.connection() as connection:
            batch = await sealed.list_under_other_keys(
                connection, place, vault.newest_key_id, after=after, limit=_BATCH
            )
        if not batch:
            return
        yield batch
        after = batch[-1].key


def _sealed_anew(vault: Vault, one: sealed.Sealed) -> bytes:
    plaintext = vault.open(one.envelope, pipeline_id=one.pipeline_id)
    return vault.seal(plaintext, pipeline_id=one.pipeline_id)


async def _require_readable(database: Database, vault: Vault) -> None:
    without_key: dict[str, set[str]] = defaultdict(set)
    damaged: set[str] = set()
    for place in sealed.PLACES:
        async with aclosing(_batches(database, vault, place)) as batches:
            async for batch in batches:
                for one in batch:
                    if not vault.has_key_of(one.envelope):
                        without_key[key_id_of(one.envelope).hex()].add(one.pipeline_id)
                    elif not _opens(vault, one):
                        damaged.add(one.pipeline_id)
    if without_key or damaged:
        raise SecretsUnreadable(_explanation(without_key, damaged))


def _opens(vault: Vault, one: sealed.Sealed) -> bool:
    try:
        vault.open(one.envelope, pipeline_id=one.pipeline_id)
    except SecretsUnreadable:
        return False
    return True


def _explanation(without_key: Mapping[str, set[str]], damaged: set[str]) -> str:
    reasons = [
        f"key {key_id} is not among PIPESYNC_ENCRYPTION_KEYS, and these pipelines need it:"
        f" {_names(pipelines)}"
        for key_id, pipelines in sorted(without_key.items())
    ]
    if damaged:
        reasons.append(f"what is stored of these pipelines is damaged: {_names(damaged)}")
    return f"nothing was encrypted anew: {'; '.join(reasons)}"


def _names(pipelines: set[str]) -> str:
    names = sorted(pipelines)
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
