"""Results of a check of a usable Postgres, and of an unusable one."""

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection import retry
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.protocols import SelectedStream
from engine_server.errors import ConnectionFailed
from pipesync.v1.progress_pb2 import ConnectionStatus
from tests.engine_server.connectors.postgres.builders import logs, records, stream, write


async def _check(config: PostgresConfig, *streams: SelectedStream) -> ConnectionStatus:
    messages = [message async for message in PostgresDestination().check(config, streams)]
    [status] = [message.connection_status for message in messages]
    return status


async def test_a_database_where_tables_can_be_made_is_fine(config: PostgresConfig) -> None:
    assert await _check(config, stream()) == ConnectionStatus(
        status=ConnectionStatus.STATUS_SUCCEEDED, reached=True
    )


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://me:hunter2@127.0.0.1:1/db", "Connect call failed"),
        ("postgresql://me:hunter2@/db?host=/nowhere", "No such file or directory"),
        ("postgresql://me:hunter2@127.0.0.1:1,127.0.0.1:2/db", "Connect call failed"),
    ],
)
async def test_an_unreachable_database_fails_without_naming_the_password(
    url: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "SYNC_TIMEOUT", 0.1)
    config = PostgresConfig.model_validate({"url": url})
    status = await _check(config)
    assert status.status == ConnectionStatus.STATUS_FAILED
    assert said in status.message
    assert "hunter2" not in status.message
    assert not status.reached
    with pytest.raises(ConnectionFailed) as caught:
        await write(config, [stream()], [records("customers")])
    assert "hunter2" not in str(caught.value)


async def test_a_missing_database_is_named(database_url: str) -> None:
    url = database_url.replace("/test_", "/missing_")
    status = await _check(PostgresConfig.model_validate({"url": url}))
    assert 'database "missing_' in status.message
    assert "does not exist" in status.message


async def test_a_role_that_may_not_create_tables_gets_the_grant_as_remedy(
    config: PostgresConfig, database_url: str, database: asyncpg.Connection
) -> None:
    await logs(PostgresDestination().setup(config, [stream()]))
    role = f"reader_{await database.fetchval('SELECT current_database()')}"[:60]
    await database.execute(f'CREATE ROLE "{role}" LOGIN; GRANT USAGE ON SCHEMA stripe TO "{role}"')
    try:
        url = database_url.replace("postgres@", f"{role}@")
        limited = PostgresConfig.model_validate({"url": url})
        status = await _check(limited, stream("products"))
        assert status.status == ConnectionStatus.STATUS_FAILED
        assert f'GRANT CREATE, USAGE ON SCHEMA "stripe" TO "{role}"' in status.message
        await database.execute(f'GRANT SELECT, INSERT, UPDATE ON stripe.customers TO "{role}"')
        assert (await _check(limited, stream())).status == ConnectionStatus.STATUS_SUCCEEDED
    finally:
        await database.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


async def test_a_read_only_database_is_no_place_to_write(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    name = await database.fetchval("SELECT current_database()")
    await database.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    status = await _check(config)
    assert status.status == ConnectionStatus.STATUS_FAILED
    assert "is read-only" in status.message
    assert not status.reached


async def test_a_session_that_the_server_ends_is_reported_with_the_servers_message(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await logs(PostgresDestination().setup(config, [stream()]))
    await database.execute(
        """
        CREATE FUNCTION public.leave() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$;
        CREATE TRIGGER leaves BEFORE INSERT ON stripe.customers
            FOR EACH ROW EXECUTE FUNCTION public.leave()
        """
    )
    status = await _check(config, stream())
    assert status.status == ConnectionStatus.STATUS_FAILED
    assert "terminating connection due to administrator command" in status.message
