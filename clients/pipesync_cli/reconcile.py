"""Command reconcile, which compares a pipeline's tables with its source."""

import uuid
from itertools import count
from typing import Annotated

import typer

from pipesync.v1.pipeline_service_pb2 import SyncPipelineBatchRequest
from pipesync.v1.progress_pb2 import RowCounts
from pipesync_cli.app import synchronous
from pipesync_cli.outdated import report_outdated, report_renewed
from pipesync_cli.output import echo, print_note
from pipesync_cli.pipelines import PipelineId
from pipesync_cli.rows import records
from pipesync_cli.sync import StateLimit, TimeLimit, duration, finish, run_batches


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(synchronous(reconcile))


async def reconcile(
    command: typer.Context,
    pipeline_id: PipelineId,
    state_limit: StateLimit = None,
    time_limit: TimeLimit = None,
    run_id: Annotated[
        str | None, typer.Option(metavar="R", help="Resume the interrupted run R.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print each call's result as JSON, one per line.")
    ] = False,
) -> None:
    """Compare a pipeline's tables with its source.

    Reads all streams again, deletes rows that the source deleted, and applies changes that no
    event reported. Calls of one run are repeated until there is no more to do; the limits apply to
    each call.
    """
    run = run_id or f"reconcile-{uuid.uuid4().hex[:12]}"
    request = SyncPipelineBatchRequest(
        pipeline_id=pipeline_id,
        run_id=run,
        state_limit=state_limit or 0,
        time_limit=duration(time_limit),
        reconcile=True,
    )
    if not raw:
        print_note(f"{pipeline_id}: run {run}; after an interruption, --run-id {run} resumes it")
    eof = await run_batches(command, request, count(), raw)
    if eof is not None and not raw:
        for name, stream in sorted(eof.run_progress.streams.items()):
            if _has_changes(stream.rows):
                echo(f"{name}: {records(stream)}")
    report_renewed(pipeline_id, eof, raw)
    report_outdated(pipeline_id, eof, raw)
    finish(pipeline_id, eof, raw)


def _has_changes(rows: RowCounts) -> bool:
    return bool(rows.inserted or rows.updated or rows.deleted or rows.rejected)
