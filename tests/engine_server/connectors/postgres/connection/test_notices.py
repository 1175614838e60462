"""Triggers of the user's tables may raise notices, any number of them."""

import asyncpg

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from tests.engine_server.connectors.postgres.builders import (
    customer,
    logs,
    records,
    stream,
    write,
)

_ROWS = 2000
_TRIGGER = """
    CREATE FUNCTION public.notify_often() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            FOR number IN 1 .. 20 LOOP
                RAISE NOTICE 'row % for the %th time', NEW.id, number;
                RAISE WARNING 'a long one: %', repeat('x', 200);
            END LOOP;
            RETURN NEW;
        END
    $$;
    CREATE TRIGGER often BEFORE INSERT ON stripe.customers
        FOR EACH ROW EXECUTE FUNCTION public.notify_often();
"""


async def test_a_trigger_may_raise_tens_of_thousands_of_notices_in_one_flush(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await logs(PostgresDestination().setup(config, [stream()]))
    await database.execute(_TRIGGER)
    written = records("customers", *(customer(number) for number in range(_ROWS)))
    await write(config, [stream()], [written])
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == _ROWS
