"""Data that fills every table of the service as years of use would, for any columns."""

import os

import asyncpg

PIPELINES = 5_000
# A thousand rows for each of a hundred pipelines: a realistic maximum for one pipeline, but only a
# fiftieth of that for a table, which would take minutes and gigabytes (``make explain``).
ROWS = int(os.environ.get("STORED_ROWS", "100000"))
_ROWS_OF_A_PIPELINE = 1_000

_COLUMNS = """
SELECT relation.relname AS table_name, attname AS name, typname AS type, NOT attnotnull AS nullable
FROM pg_attribute
JOIN pg_class AS relation ON relation.oid = attrelid
JOIN pg_type ON pg_type.oid = atttypid
WHERE relation.relnamespace = 'pipesync'::regnamespace AND relkind IN ('r', 'p')
    AND relname NOT IN ('migrations', 'pipelines')
    AND attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attidentity = ''
ORDER BY relname, attnum
"""
# Values by type; n is the number of the row.
_VALUES = {
    "text": "'v' || n",
    "bytea": "'\\x0102'::bytea",
    "int2": "n % 4",
    "int4": "n",
    "int8": "n",
    "float8": "n",
    "bool": "n % 1000 = 0",
    "timestamptz": "now() - n * interval '1 second'",
    "interval": "interval '1 second'",
    "json": "'{}'::json",
    "jsonb": "'{}'::jsonb",
    "uuid": "gen_random_uuid()",
    "_text": "ARRAY['v' || n]",
}
# A row with a hash must have no certificate.
_OF_COLUMNS = {("tokens", "hash"): "'v' || n", ("tokens", "certificate"): "NULL"}
# Nearly all of the rows are finished work.
_DONE = {
    "webhook_events": "SET status = 2, finish_time = receive_time WHERE arrival % 1000 <> 0",
    "lifecycles": "SET due_time = now() + interval '1 hour' WHERE pipeline_id <> 'pl-02500'",
}


async def fill(url: str, *, rows: int = ROWS) -> None:
    """Fill all tables; a table with one row for each pipeline gets no more than that."""
    connection = await asyncpg.connect(url)
    try:
        await _fill(connection, rows)
    finally:
        await connection.close()


async def _fill(connection: "asyncpg.Connection[asyncpg.Record]", rows: int) -> None:
    busy = min(PIPELINES, max(1, rows // _ROWS_OF_A_PIPELINE))
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO pipesync.pipelines (id, config, sealed_config, desired_status, status,"
            " sync_policy, etag) SELECT 'pl-' || lpad(n::text, 5, '0'), '{}',"
            " decode(repeat('ab', 400), 'hex'), 1, 3, 1, 'e' FROM generate_series(0, $1 - 1) AS n",
            PIPELINES,
        )
        by_table: dict[str, dict[str, str]] = {}
        for column in await connection.fetch(_COLUMNS):
            by_table.setdefault(column["table_name"], {})[column["name"]] = _value(column, busy)
        for table, values in by_table.items():
            await connection.execute(
                f"INSERT INTO pipesync.{table} ({', '.join(values)})"  # noqa: S608 - the catalog's own names
                f" SELECT {', '.join(values.values())} FROM generate_series(0, {rows - 1}) AS n"
                " ORDER BY n ON CONFLICT DO NOTHING"
            )
    for table in by_table.keys() & _DONE.keys():
        await connection.execute(f"UPDATE pipesync.{table} {_DONE[table]}")
    await connection.execute("VACUUM ANALYZE")


def _value(column: asyncpg.Record, busy: int) -> str:
    if column["name"] == "pipeline_id":
        # One row for each pipeline first; the others belong to a few pipelines.
        return (
            f"'pl-' || lpad((CASE WHEN n < {PIPELINES} THEN n"
            f" ELSE n % {busy} * {PIPELINES // busy} END)::text, 5, '0')"
        )
    if (value := _OF_COLUMNS.get((column["table_name"], column["name"]))) is not None:
        return value
    value = _VALUES[column["type"]]
    # Null marks unfinished work, which is rare.
    return f"CASE WHEN n % 1000 <> 0 THEN {value} END" if column["nullable"] else value
