"""Writes the records that Postgres refused once more."""

from collections.abc import Sequence
from functools import partial

import asyncpg

from engine_server.connectors.postgres import rejected_table, retry
from engine_server.connectors.postgres.ask import ask
from engine_server.connectors.postgres.batch import MAX_BYTES
from engine_server.connectors.postgres.checkpoints.recorder import CheckpointRecorder
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.pool import Connection, Pool
from engine_server.connectors.postgres.rejected_records import RejectedRecords
from engine_server.connectors.postgres.rows import StreamRows
from engine_server.connectors.postgres.tables import Table
from engine_server.connectors.postgres.writer import Writer
from engine_server.connectors.protocols import RetryResult
from engine_server.errors import ConnectorError

# Of each transaction.
_PAGE_ROWS = 500
_MOST_PASSES = 5


async def retry_rejected(
    pool: Pool,
    config: PostgresConfig,
    tables: Sequence[Table],
    writer: Writer,
    rejected: RejectedRecords,
    recorder: CheckpointRecorder | None,
) -> RetryResult:
    """Writes what is kept of ``tables``, page by page; what is refused again stays.

    ``recorder`` notes which tables have rows since; None where that cannot be recorded.

    A record that is older than its row leaves the row as it is, and is dropped.

    Raises:
        ConnectionFailed: Postgres was out of reach for a minute, or does not let us in.
        ConnectorError: Postgres does not take a stream for a reason that lies in its table. The
            records of the other streams were tried again.
    """
    refused: dict[str, str] = {}
    total = await _pass(pool, config, tables, writer, rejected, recorder, refused)
    latest = total
    # What refers to a row of a later stream is written once that one is.
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
    rejected: RejectedRecords,
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
        while page := await ask(
            pool,
            config,
            partial(_page, config.schema_name, table, after, only_orphans),
            patience=retry.CALL_PATIENCE,
        ):
            # As changes, so that a row that is equal takes their time on.
            rows = StreamRows(are_changes=True)
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
