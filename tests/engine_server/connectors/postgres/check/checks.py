"""Checks of a database by a role for syncs."""

import asyncpg

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.protocols import SelectedStream
from pipesync.v1.progress_pb2 import ConnectionStatus
from tests.engine_server.connectors.postgres.builders import (
    DESTINATION,
    customer,
    logs,
    records,
    stream,
    write,
)

MODES = ["soft", "hard"]
FINE = ConnectionStatus(status=ConnectionStatus.STATUS_SUCCEEDED, reached=True)


async def check(config: PostgresConfig, *streams: SelectedStream) -> ConnectionStatus:
    messages = [message async for message in DESTINATION.check(config, streams or [stream()])]
    [status] = [message.connection_status for message in messages]
    assert (status.status == ConnectionStatus.STATUS_FAILED) == bool(status.message)
    return status


async def granted(
    database: asyncpg.Connection, url: str, role: str, mode: str = "soft"
) -> PostgresConfig:
    """Set up the tables with a row, and return the configuration of a role that may write."""
    owner = PostgresConfig.model_validate({"url": url, "delete_mode": mode})
    await logs(DESTINATION.setup(owner, [stream()]))
    await write(owner, [stream()], [records("customers", customer(1, name="Ada"))])
    await database.execute(
        f"GRANT USAGE ON SCHEMA stripe TO {role};"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA stripe TO {role}"
    )
    return PostgresConfig.model_validate(
        {"url": url.replace("postgres@", f"{role}@"), "delete_mode": mode}
    )


RAISES = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'closed on Sundays'; END $$;
"""
