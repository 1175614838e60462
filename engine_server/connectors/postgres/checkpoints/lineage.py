"""The comparison of a state with the recorded lines, within a transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files

import asyncpg

from engine_server.connectors.postgres.arrays import text_array
from engine_server.connectors.postgres.checkpoints import table
from engine_server.connectors.postgres.checkpoints.comparison import (
    Comparison,
    Recorded,
    compare,
)
from engine_server.connectors.postgres.checkpoints.lines import (
    GLOBAL,
    INPUTS,
    Line,
    MovedLines,
    destination_of,
    encoded_history,
    line_of,
    lineage_of,
)
from engine_server.connectors.postgres.pool import Connection
from engine_server.connectors.postgres.tables import Table
from engine_server.connectors.protocols import Resumed, ResumeRequest
from engine_server.state import has_no_checkpoints

# An event dates its record by a second, and a read by one that was over, by Stripe's clock as it is
# known: a row of the last event that is held takes no read of before this time after it, although
# an event of the same second may be missing.
_SETTLING_SECONDS = 3.0

_SQL = files(__package__)
_LOCKED = _SQL.joinpath("lines_locked.sql").read_text()
_ADOPTED = _SQL.joinpath("lines_adopted.sql").read_text()
_WRITTEN = _SQL.joinpath("lines_written.sql").read_text()
_TOUCH = "UPDATE {checkpoints} SET written_at = now() WHERE account_id = $1 AND lineage = $2"
# A caller without a state begins a lineage with each call, of most of which nothing is recorded.
_FORGET_OLD = """
    DELETE FROM {checkpoints}
    WHERE ctid = ANY(ARRAY(
        SELECT ctid
        FROM {checkpoints} AS line
        WHERE (account_id, lineage) <> ($1, $2)
            AND (
                written_at < now() - interval '60 days'
                OR stream = '(inputs)'
                AND number <= 1
                AND written_at < now() - interval '1 minute'
                AND NOT EXISTS (
                    SELECT
                    FROM {checkpoints} AS other
                    WHERE other.account_id = line.account_id
                        AND other.lineage = line.lineage
                        AND other.stream <> line.stream
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
_NOTE_ROWS = """
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
) -> Resumed:
    """Compare the state of ``request`` with the lines, and have them say where it goes on.

    Args:
        connection: In a transaction in which the tables were made.
        schema: The schema; its lines are usable.
        tables: The tables of the selected streams.
        request: The request.
        lineage: Names the lineage of a state that has none.
        epoch: Names the series that begins.
    """
    of_state = lineage_of(request.state.destination)
    resuming = _Resuming(connection, schema, request.account_id, of_state or lineage)
    lines = await resuming.locked() if of_state else {}
    # Inputs have a caller that sends them again; a sync goes on with the other tables.
    found = await table.forget_emptied(
        connection, schema, tables, passes_locked=bool(request.reads)
    )
    empty = found.empty
    lines = {name: line for name, line in lines.items() if name not in empty or not line.has_rows}
    if of_state and not lines:
        lines = await resuming.adopted()
    selected = [one.stream for one in tables]
    outcome = compare(
        request,
        selected,
        Recorded(
            lineage_is_known=bool(of_state),
            lines=lines,
            empty=empty,
            is_overtaken=resuming.is_overtaken,
        ),
        epoch=epoch,
    )
    filled = [name for name in selected if name not in empty and name not in found.locked]
    held = await resuming.held(filled) if has_no_checkpoints(request.state) else []
    others = lines.keys() - {*selected, GLOBAL, INPUTS}
    # Inputs that are pushed now tell nothing of these streams, so their rows fall behind.
    if outcome.forgets_others or (request.pushes_inputs and others):
        await resuming.forget_others([*selected, GLOBAL, INPUTS])
    await resuming.write(outcome.lines)
    if any(not lines[name].has_rows for name in filled if name in lines):
        await resuming.note_rows(filled)
    if resuming.is_old or not of_state:
        await resuming.refresh()
    resumed = _resumed(
        resuming.lineage,
        request,
        outcome,
        lines,
        filled,
        locked=found.locked,
        files=found.files,
        settling=_settling(outcome, filled, resuming.age),
    )
    return replace(resumed, held_streams=held)


def _resumed(
    lineage: str,
    request: ResumeRequest,
    outcome: Comparison,
    lines: Mapping[str, Line],
    filled: Sequence[str],
    *,
    locked: Mapping[str, str],
    files: Mapping[str, int | None],
    settling: float,
) -> Resumed:
    moved = {*request.reads, *([GLOBAL] if request.moves_global else [])}
    if request.pushes_inputs:
        moved.add(INPUTS)
    now = {**lines, **outcome.lines}
    ticket = MovedLines(
        account_id=request.account_id,
        lineage=lineage,
        positions={name: now[name].position for name in moved if name in now},
        filled=frozenset(filled),
        settling=settling,
        locked=locked,
        files=files,
    )
    return Resumed(
        destination=destination_of(lineage),
        positions=outcome.positions,
        inputs_position=outcome.inputs_position,
        rewinds=list(outcome.rewinds.values()),
        inputs_are_lost=outcome.inputs_are_lost,
        lost_inputs_are_replayable=outcome.lost_inputs_are_replayable,
        held_inputs=outcome.held_inputs,
        ticket=ticket,
    )


def _settling(outcome: Comparison, filled: Sequence[str], age: float) -> float:
    """Return the seconds until what is read is newer than the rows that stay."""
    stays = any(
        rewind.checkpoint is None and rewind.stream != GLOBAL and not rewind.is_empty
        for rewind in outcome.rewinds.values()
    )
    # A stream without a checkpoint is read from the start without a rewind.
    stays |= bool(filled) and outcome.inputs_are_lost and not outcome.lost_inputs_are_replayable
    return max(0.0, _SETTLING_SECONDS - max(0.0, age)) if stays else 0.0


class _Resuming:
    """The statements about one lineage.

    Attributes:
        lineage: The lineage.
        is_old: Whether its lines have not been written for a day.
        is_overtaken: Whether another lineage of the account was written later.
        age: Seconds since a line was written last; 0 where that is not known.
    """

    def __init__(self, connection: Connection, schema: str, account_id: str, lineage: str) -> None:
        self._connection = connection
        self._checkpoints = table.quoted(schema)
        self._account_id = account_id
        self.lineage = lineage
        self.is_old = False
        self.is_overtaken = False
        self.age = 0.0

    async def locked(self) -> dict[str, Line]:
        """Lock the lines. An emptied table is looked for behind that, in a later snapshot."""
        rows = await self._rows(_LOCKED)
        self.is_old = any(row["is_old"] for row in rows)
        self.is_overtaken = bool(rows) and all(row["is_overtaken"] for row in rows)
        self.age = min((row["age"] for row in rows), default=0.0)
        return {row["stream"]: line_of(dict(row)) for row in rows}

    async def adopted(self) -> dict[str, Line]:
        """Take the lines of the account's lineage that was written last."""
        await self._rows(_ADOPTED)
        return await self.locked()

    async def _rows(self, statement: str) -> Sequence[asyncpg.Record]:
        rows: Sequence[asyncpg.Record] = await self._connection.fetch(
            statement.format(checkpoints=self._checkpoints), self._account_id, self.lineage
        )
        return rows

    async def write(self, lines: Mapping[str, Line]) -> None:
        """Make or replace these lines."""
        if not lines:
            return
        given = list(lines.values())
        await self._connection.execute(
            _WRITTEN.format(checkpoints=self._checkpoints),
            self._account_id,
            self.lineage,
            [line.stream for line in given],
            [line.checkpoint for line in given],
            [line.stream_schema for line in given],
            [line.epoch for line in given],
            text_array(line.number for line in given),
            [encoded_history(line) for line in given],
            text_array(line.has_rows for line in given),
        )

    async def held(self, filled: Sequence[str]) -> list[str]:
        """Return which of these streams any lineage of the account has written rows of."""
        rows = await self._connection.fetch(
            _HELD.format(checkpoints=self._checkpoints), self._account_id, list(filled)
        )
        return [row["stream"] for row in rows]

    async def note_rows(self, filled: Sequence[str]) -> None:
        """Have the lines of all lineages say that these tables have rows."""
        await self._connection.execute(
            _NOTE_ROWS.format(checkpoints=self._checkpoints), list(filled)
        )

    async def forget_others(self, kept: Sequence[str]) -> None:
        """Drop the lineage's lines of other streams."""
        await self._connection.execute(
            _FORGET_OTHERS.format(checkpoints=self._checkpoints),
            self._account_id,
            self.lineage,
            list(kept),
        )

    async def refresh(self) -> None:
        """Keep the lines from being taken for unused, and drop those of others that are."""
        for statement in (_TOUCH, _FORGET_OLD):
            await self._connection.execute(
                statement.format(checkpoints=self._checkpoints), self._account_id, self.lineage
            )
