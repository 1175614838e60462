"""Retries of the records that Postgres refused."""

from collections.abc import Sequence
from functools import partial

import asyncpg

from engine_server.connectors.postgres.checkpoints.recorder import CheckpointRecorder
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection import retry
from engine_server.connectors.postgres.connection.catalog_transaction import run_in_transaction
from engine_server.connectors.postgres.connection.pool import Connection, Pool
from engine_server.connectors.postgres.rejection.rejection_tracker import RejectionTracker
from engine_server.connectors.postgres.rows.batch import MAX_BYTES
from engine_server.connectors.postgres.rows.row import StreamRows
from engine_server.connectors.postgres.schema import rejected_table
from engine_server.connectors.postgres.schema.tables import Table
from engine_server.connectors.postgres.write.writer import Writer
from engine_server.connectors.protocols import RetryResult
from engine_server.errors import ConnectorError

# Rows of one transaction.
_PAGE_ROWS = 500
_MOST_PASSES = 5


async def retry_rejected(
    pool: Pool,
    config: PostgresConfig,
    tables: Sequence[Table],
    writer: Writer,
    rejected: RejectionTracker,
    recorder: CheckpointRecorder | None,
) -> RetryResult:
    """Write the kept records of ``tables``, page by page; records that are refused again stay.

    A record that is older than its row leaves the row as it is, and is dropped.

    Args:
        pool: The pool.
        config: The configuration of the pool.
        tables: The tables.
        writer: Writes the rows.
        rejected: The rejected records.
        recorder: Records which tables have rows now; None where that cannot be recorded.

    Raises:
        ConnectionFailed: Postgres was unreachable for a minute, or refused the session.
        ConnectorError: Postgres refuses a stream because of its table. The records of the other
            streams were retried.
    """
    refused: dict[str, str] = {}
    total = await _pass(pool, config, tables, writer, rejected, recorder, refused)
    latest = total
    # A record that refers to a row of a later stream is written once that row is.
    for _ in range(_MOST_PASSES):
        if not (latest.written and latest.rejected):
            break
        latest = await _pass(
            pool, config, tables, writer, rejected, recorder, refused, only_orphans=True
        )
        settled = latest.retried - latest.rejected
        total = RetryResult(
            retried=total.retried,
            written=total.written + latest.written,
            rejected=total.rejected - settled,
        )
    if refused:
        raise ConnectorError("; ".join(refused.values()))
    return total


async def _pass(
    pool: Pool,
    config: PostgresConfig,
    tables: Sequence[Table],
    writer: Writer,
    rejected: RejectionTracker,
    recorder: CheckpointRecorder | None,
    refused: dict[str, str],
    *,
    only_orphans: bool = False,
) -> RetryResult:
    retried = written = still_rejected = 0
    for table in tables:
        if table.stream in refused or not rejected.has_entries(table.stream):
            continue
        after = b""
        while page := await run_in_transaction(
            pool,
            config,
            partial(_page, config.schema_name, table, after, only_orphans),
            retry_timeout=retry.CALL_TIMEOUT,
            reads_records=True,
        ):
            # As change events, so that an equal row takes their time.
            rows = StreamRows(are_change_events=True)
            rows.add([entry["record"] for entry in page])
            last_times = {entry["digest"]: entry["last_time"] for entry in page}
            outcome = await writer.commit(
                {table.stream: rows},
                {table.stream: last_times},
                partial(recorder.script, 0, uncommitted={}) if recorder is not None else None,
            )
            if outcome.refused:
                refused.update(outcome.refused)
                break
            counts = outcome.counts[table.stream]
            retried += len(page)
            written += counts.inserted + counts.updated + counts.deleted
            still_rejected += counts.rejected
            after = page[-1]["digest"]
    return RetryResult(retried=retried, written=written, rejected=still_rejected)


async def _page(
    schema: str, table: Table, after: bytes, only_orphans: bool, connection: Connection
) -> list[asyncpg.Record]:
    page: list[asyncpg.Record] = await connection.fetch(
        rejected_table.page_statement(schema),
        table.stream,
        table.account_id,
        after,
        _PAGE_ROWS,
        MAX_BYTES,
        only_orphans,
    )
    return page
