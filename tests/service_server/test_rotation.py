"""Tests for the rotation of keys: while services run, interrupted anywhere, and repeated."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync_client import PipelineClient
from service_server.bootstrap import running_service
from service_server.errors import SecretsUnreadable
from service_server.security.rotation import rotate
from service_server.security.secrets import Vault
from service_server.settings.service import ServiceSettings
from service_server.store import pipelines, sealed
from service_server.store.database import Database
from tests.service_server.conftest import connector
from tests.service_server.rotating import (
    LOST,
    NEW,
    OLD,
    RotateKeys,
    envelopes,
    insert,
    rotate_keys,
    sealed_pipeline,
    under,
    variable,
)
from tests.service_server.store.waiting import until_a_session_waits

BATCH = 100
MANY = [f"pl-{number:03}" for number in range(250)]


@asynccontextmanager
async def holding(database: Database, pipeline_id: str) -> AsyncIterator[None]:
    """Lock one pipeline during the body."""
    async with database.transaction() as connection:
        await connection.execute(
            "SELECT FROM pipesync.pipelines WHERE id = $1 FOR UPDATE", pipeline_id
        )
        yield


async def test_a_rotation_encrypts_everything_with_the_newest_key(
    database: Database, database_url: str
) -> None:
    await insert(database, OLD, *MANY)
    await insert(database, LOST, "pl-lost")
    await insert(database, NEW, "pl-new")
    first = await rotate_keys(database_url, variable(NEW, OLD, LOST))
    assert first.exit_code == 0
    assert first.events[-1]["event"] == "keys_rotated"
    assert first.events[-1]["reencrypted"] == 251
    assert await under(database, NEW) == {*MANY, "pl-lost", "pl-new"}
    before = await envelopes(database)
    again = await rotate_keys(database_url, variable(NEW, OLD, LOST))
    assert (again.exit_code, again.events[-1]["reencrypted"]) == (0, 0)
    assert await envelopes(database) == before


async def test_a_missing_key_is_named_with_its_pipelines_and_nothing_is_changed(
    database: Database, database_url: str
) -> None:
    await insert(database, OLD, "pl-a", "pl-b")
    await insert(database, LOST, "pl-c", "pl-d")
    before = await envelopes(database)
    ended = await rotate_keys(database_url, variable(NEW, OLD))
    assert ended.exit_code == 1
    reason = ended.events[-1]["reason"]
    assert Vault([LOST]).newest_key_id.hex() in reason
    assert reason.endswith("pl-c, pl-d")
    assert "pl-a" not in reason
    assert await envelopes(database) == before


async def test_a_damaged_configuration_is_named_and_nothing_is_changed(database: Database) -> None:
    await insert(database, OLD, "pl-a", "pl-b")
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE pipesync.pipelines SET sealed_config = sealed_config || '\\x00'"
            " WHERE id = 'pl-b'"
        )
    before = await envelopes(database)
    with pytest.raises(SecretsUnreadable, match=r"damaged: pl-b$"):
        await rotate(database, Vault([NEW, OLD]))
    assert await envelopes(database) == before


async def test_missing_and_invalid_keys_are_reported(database_url: str) -> None:
    ended = await rotate_keys(database_url, None)
    assert ended.exit_code == 1
    assert "PIPESYNC_ENCRYPTION_KEYS" in ended.events[-1]["reason"]


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
async def test_an_interrupted_rotation_continues_when_it_is_repeated(
    database: Database, database_url: str, ending: signal.Signals
) -> None:
    await insert(database, OLD, *MANY)
    program = RotateKeys(database_url, variable(NEW, OLD))
    async with holding(database, MANY[BATCH + 50]):
        await program.start()
        await until_a_session_waits(database)
        program.process.send_signal(ending)
        ended = await program.wait() if ending == signal.SIGTERM else None
        if ended is None:
            await program.process.wait()
    assert ended is None or ended.exit_code == 1
    assert ended is None or "repeat the command" in ended.events[-1]["reason"]
    done = await under(database, NEW)
    assert done == set(MANY[:BATCH])
    assert await under(database, OLD) == set(MANY[BATCH:])
    again = await rotate_keys(database_url, variable(NEW, OLD))
    assert again.events[-1]["reencrypted"] == len(MANY) - BATCH
    assert await under(database, NEW) == set(MANY)


async def test_two_concurrent_rotations_do_the_work_of_one(database: Database) -> None:
    await insert(database, OLD, *MANY)
    vault = Vault([NEW, OLD])
    replaced = await asyncio.gather(rotate(database, vault), rotate(database, vault))
    assert sum(replaced) == len(MANY)
    assert await under(database, NEW) == set(MANY)


async def test_a_change_during_the_rotation_is_kept_and_rotated_next(
    database: Database,
) -> None:
    await insert(database, OLD, "pl-a")
    vault = Vault([NEW, OLD])
    async with database.connection() as connection:
        [place] = sealed.PLACES
        [read] = await sealed.list_under_other_keys(
            connection, place, vault.newest_key_id, after="", limit=9
        )
        stored = await pipelines.get(connection, "pl-a")
        assert stored is not None
        changed = pipelines.StoredPipeline(
            pipeline=stored.pipeline,
            sealed_config=sealed_pipeline(Vault([OLD]), "pl-a").sealed_config,
        )
        assert await pipelines.update(connection, changed)
    async with database.transaction() as connection:
        late = sealed.Replacement(sealed=read, envelope=b"late")
        assert await sealed.replace(connection, place, [late]) == 0
    assert await envelopes(database) == {"pl-a": changed.sealed_config}
    assert await rotate(database, vault) == 1


async def test_concurrent_updates_and_rotations_lose_no_change(
    database: Database, settings: ServiceSettings
) -> None:
    """The service has the new key, as it should, and updates run during the rotation."""
    keys = settings.model_copy(update={"encryption_keys": SecretStr(variable(NEW, OLD))})
    names = MANY[:30]
    await insert(database, OLD, *names)
    async with running_service(keys) as server, PipelineClient(server.address) as client:

        async def change(name: str) -> None:
            wanted = pb.Pipeline(id=name, desired_status=pb.DESIRED_STATUS_PAUSED)
            wanted.config.source.CopyFrom(connector(base_url=f"changed-{name}"))
            for path in ("config.source", "desired_status"):
                request = pb.UpdatePipelineRequest(pipeline=wanted)
                request.update_mask.paths.append(path)
                await client.update_pipeline(request)

        await asyncio.gather(*(change(name) for name in names), rotate(database, Vault([NEW, OLD])))
    await rotate(database, Vault([NEW, OLD]))
    newest = Vault([NEW])
    for name, envelope in (await envelopes(database)).items():
        assert f"changed-{name}".encode() in newest.open(envelope, pipeline_id=name)


async def test_a_desired_status_that_was_read_before_a_rotation_does_not_undo_it(
    database: Database,
) -> None:
    await insert(database, OLD, "pl-a")
    async with database.connection() as connection:
        read = await pipelines.get(connection, "pl-a")
    assert read is not None
    assert await rotate(database, Vault([NEW, OLD])) == 1
    read.pipeline.desired_status = pb.DESIRED_STATUS_PAUSED
    async with database.connection() as connection:
        assert await pipelines.update_desired_state(connection, read.pipeline)
    assert await under(database, NEW) == {"pl-a"}


async def test_every_encrypted_column_is_rotated(database: Database) -> None:
    async with database.connection() as connection:
        columns = await connection.fetch(
            "SELECT column_name FROM information_schema.columns"
            " WHERE table_schema = 'pipesync' AND column_name LIKE 'sealed%'"
        )
    assert len(columns) == len(sealed.PLACES)
