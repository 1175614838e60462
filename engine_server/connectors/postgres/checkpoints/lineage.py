"""Comparison of a state with the entries of its lineage, within a transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files

import asyncpg

from engine_server.connectors.postgres.checkpoints import lost_rows, table
from engine_server.connectors.postgres.checkpoints.comparison import (
    ComparisonResult,
    RecordedState,
    compare,
)
from engine_server.connectors.postgres.checkpoints.entries import (
    GLOBAL,
    INPUTS,
    CheckpointEntry,
    MovedEntries,
    destination_of,
    encoded_history,
    entry_of,
    lineage_of,
)
from engine_server.connectors.postgres.connection.pool import Connection
from engine_server.connectors.postgres.schema.arrays import text_array
from engine_server.connectors.postgres.schema.tables import Table
from engine_server.connectors.protocols import ResumeRequest, ResumeResult
from engine_server.state.state import has_no_checkpoints

# An event dates its record by its own second, a read by the last full second of Stripe's clock as
# it is known. So for this time after the last committed event, its row refuses any read, although
# another event of the same second may be missing.
_SETTLING_SECONDS = 3.0

_SQL = files(__package__)
_LOCKED = _SQL.joinpath("entries_locked.sql").read_text()
_ADOPTED = _SQL.joinpath("entries_adopted.sql").read_text()
_WRITTEN = _SQL.joinpath("entries_written.sql").read_text()
_TOUCH = "UPDATE {checkpoints} SET written_at = now() WHERE account_id = $1 AND lineage = $2"
# A caller without a state begins a lineage with each call; most of them record nothing.
_FORGET_OLD = """
    DELETE FROM {checkpoints}
    WHERE ctid = ANY(ARRAY(
        SELECT ctid
        FROM {checkpoints} AS entry
        WHERE (account_id, lineage) <> ($1, $2)
            AND (
                written_at < now() - interval '60 days'
                OR stream = '(inputs)'
                AND number <= 1
                AND written_at < now() - interval '1 minute'
                AND NOT EXISTS (
                    SELECT
                    FROM {checkpoints} AS other
                    WHERE other.account_id = entry.account_id
                        AND other.lineage = entry.lineage
                        AND other.stream <> entry.stream
                )
            )
        LIMIT 1000
        FOR UPDATE SKIP LOCKED
    ))
"""
_FORGET_OTHERS = """
    DELETE FROM {checkpoints}
    WHERE account_id = $1 AND lineage = $2 AND stream <> ALL($3::text[])
"""
_HELD = """
    SELECT DISTINCT stream FROM {checkpoints}
    WHERE account_id = $1 AND stream = ANY($2::text[]) AND has_rows
"""
_MARK_FILLED = """
    UPDATE {checkpoints} SET has_rows = true
    WHERE stream = ANY($1::text[]) AND NOT has_rows
"""


async def compare_and_record(
    connection: Connection,
    schema: str,
    tables: Sequence[Table],
    request: ResumeRequest,
    *,
    lineage: str,
    epoch: str,
) -> ResumeResult:
    """Compare the state of ``request`` with the entries, and record where it continues.

    Args:
        connection: In the transaction that created the tables.
        schema: The schema; its entries are usable.
        tables: The tables of the selected streams.
        request: The request.
        lineage: The name of the lineage for a state that has none.
        epoch: The name of the epoch that begins.
    """
    of_state = lineage_of(request.state.destination)
    resuming = _Resuming(connection, schema, request.account_id, of_state or lineage)
    entries = await resuming.locked() if of_state else {}
    # A caller can send inputs again; a sync continues with the other tables.
    found = await lost_rows.forget_emptied(
        connection, schema, tables, passes_locked=bool(request.advanced_streams)
    )
    empty = found.empty
    entries = {
        name: entry for name, entry in entries.items() if name not in empty or not entry.has_rows
    }
    if of_state and not entries:
        entries = await resuming.adopted()
    selected = [one.stream for one in tables]
    outcome = compare(
        request,
        selected,
        RecordedState(
            lineage_is_known=bool(of_state),
            entries=entries,
            empty=empty,
            is_superseded=resuming.is_superseded,
        ),
        epoch=epoch,
    )
    filled = [name for name in selected if name not in empty and name not in found.locked]
    may_be_older = has_no_checkpoints(request.state) or outcome.rewinds
    held = await resuming.held(filled) if may_be_older else []
    others = entries.keys() - {*selected, GLOBAL, INPUTS}
    # The inputs that are pushed now skip these streams, so their rows become outdated.
    if outcome.forgets_others or (request.pushes_inputs and others):
        await resuming.forget_others([*selected, GLOBAL, INPUTS])
    await resuming.write(outcome.entries)
    if any(not entries[name].has_rows for name in filled if name in entries):
        await resuming.mark_filled(filled)
    if resuming.is_old or not of_state:
        await resuming.refresh()
    resumed = _resumed(
        resuming.lineage,
        request,
        outcome,
        entries,
        filled,
        locked=found.locked,
        files=found.files,
        settling=_settling(outcome, filled, resuming.age),
    )
    return replace(resumed, held_streams=held)


def _resumed(
    lineage: str,
    request: ResumeRequest,
    outcome: ComparisonResult,
    entries: Mapping[str, CheckpointEntry],
    filled: Sequence[str],
    *,
    locked: Mapping[str, str],
    files: Mapping[str, int | None],
    settling: float,
) -> ResumeResult:
    moved = {*request.advanced_streams, *([GLOBAL] if request.advances_shared_checkpoint else [])}
    if request.pushes_inputs:
        moved.add(INPUTS)
    now = {**entries, **outcome.entries}
    token = MovedEntries(
        account_id=request.account_id,
        lineage=lineage,
        positions={name: now[name].position for name in moved if name in now},
        filled=frozenset(filled),
        settling=settling,
        locked=locked,
        files=files,
    )
    return ResumeResult(
        destination=destination_of(lineage),
        positions=outcome.positions,
        inputs_position=outcome.inputs_position,
        rewinds=list(outcome.rewinds.values()),
        inputs_are_lost=outcome.inputs_are_lost,
        lost_inputs_are_replayable=outcome.lost_inputs_are_replayable,
        held_inputs=outcome.held_inputs,
        write_token=token,
    )


def _settling(outcome: ComparisonResult, filled: Sequence[str], age: float) -> float:
    """Return the seconds until a read is newer than the rows that stay."""
    stays = any(
        rewind.checkpoint is None and rewind.stream != GLOBAL and not rewind.is_empty
        for rewind in outcome.rewinds.values()
    )
    # A stream without a checkpoint is read from the start without a rewind.
    stays |= bool(filled) and outcome.inputs_are_lost and not outcome.lost_inputs_are_replayable
    return max(0.0, _SETTLING_SECONDS - max(0.0, age)) if stays else 0.0


class _Resuming:
    """Statements on the entries of one lineage.

    Attributes:
        lineage: The lineage.
        is_old: Whether its entries have not been written for a day.
        is_superseded: Whether another lineage of the account was written later.
        age: Seconds since the last write of an entry; 0 where that is unknown.
    """

    def __init__(self, connection: Connection, schema: str, account_id: str, lineage: str) -> None:
        self._connection = connection
        self._checkpoints = table.quoted(schema)
        self._account_id = account_id
        self.lineage = lineage
        self.is_old = False
        self.is_superseded = False
        self.age = 0.0

    async def locked(self) -> dict[str, CheckpointEntry]:
        """Lock and return the entries; a later snapshot finds emptied tables."""
        rows = await self._rows(_LOCKED)
        self.is_old = any(row["is_old"] for row in rows)
        self.is_superseded = bool(rows) and all(row["is_superseded"] for row in rows)
        self.age = min((row["age"] for row in rows), default=0.0)
        return {row["stream"]: entry_of(dict(row)) for row in rows}

    async def adopted(self) -> dict[str, CheckpointEntry]:
        """Copy the entries of the account's last written lineage, and return them."""
        await self._rows(_ADOPTED)
        return await self.locked()

    async def _rows(self, statement: str) -> Sequence[asyncpg.Record]:
        rows: Sequence[asyncpg.Record] = await self._connection.fetch(
            statement.format(checkpoints=self._checkpoints), self._account_id, self.lineage
        )
        return rows

    async def write(self, entries: Mapping[str, CheckpointEntry]) -> None:
        """Insert or replace these entries."""
        if not entries:
            return
        given = list(entries.values())
        await self._connection.execute(
            _WRITTEN.format(checkpoints=self._checkpoints),
            self._account_id,
            self.lineage,
            [entry.stream for entry in given],
            [entry.checkpoint for entry in given],
            [entry.stream_schema for entry in given],
            [entry.epoch for entry in given],
            text_array(entry.number for entry in given),
            [encoded_history(entry) for entry in given],
            text_array(entry.has_rows for entry in given),
        )

    async def held(self, filled: Sequence[str]) -> list[str]:
        """Return those of these streams of which any lineage of the account has rows."""
        rows = await self._connection.fetch(
            _HELD.format(checkpoints=self._checkpoints), self._account_id, list(filled)
        )
        return [row["stream"] for row in rows]

    async def mark_filled(self, filled: Sequence[str]) -> None:
        """Record in the entries of all lineages that these tables have rows."""
        await self._connection.execute(
            _MARK_FILLED.format(checkpoints=self._checkpoints), list(filled)
        )

    async def forget_others(self, kept: Sequence[str]) -> None:
        """Delete the lineage's entries of other streams."""
        await self._connection.execute(
            _FORGET_OTHERS.format(checkpoints=self._checkpoints),
            self._account_id,
            self.lineage,
            list(kept),
        )

    async def refresh(self) -> None:
        """Mark the entries as used, and delete unused ones of other lineages."""
        for statement in (_TOUCH, _FORGET_OLD):
            await self._connection.execute(
                statement.format(checkpoints=self._checkpoints), self._account_id, self.lineage
            )
