"""The command that compares a pipeline's tables with its source: reconcile."""

import uuid
from itertools import count
from typing import Annotated

import typer

from pipesync.v1.pipeline_service_pb2 import SyncPipelineBatchRequest
from pipesync.v1.progress_pb2 import RowCounts
from pipesync_cli.app import awaited
from pipesync_cli.outdated import tell_outdated, tell_renewed
from pipesync_cli.output import note, say
from pipesync_cli.pipelines import PipelineId
from pipesync_cli.rows import records
from pipesync_cli.sync import StateLimit, TimeLimit, duration, finish, run_batches


def register(app: typer.Typer) -> None:
    """Adds this command to the program."""
    app.command()(awaited(reconcile))


async def reconcile(
    command: typer.Context,
    pipeline_id: PipelineId,
    state_limit: StateLimit = None,
    time_limit: TimeLimit = None,
    run_id: Annotated[
        str | None, typer.Option(metavar="R", help="Go on with the run R, which was interrupted.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print each call's result as JSON, one a line.")
    ] = False,
) -> None:
    """Read all of a pipeline's streams again, and delete what is gone at the source.

    What was changed or made while nobody told of it is brought up to date as well. It repeats calls
    of one run until there is no more; the limits hold for each call.
    """
    run = run_id or f"reconcile-{uuid.uuid4().hex[:12]}"
    request = SyncPipelineBatchRequest(
        id=pipeline_id,
        run_id=run,
        state_limit=state_limit or 0,
        time_limit=duration(time_limit),
        reconcile=True,
    )
    if not raw:
        note(f"{pipeline_id}: run {run}; if it is interrupted, --run-id {run} goes on with it")
    eof = await run_batches(command, request, count(), raw)
    if eof is not None and not raw:
        for name, stream in sorted(eof.run_progress.streams.items()):
            if _has_changes(stream.rows):
                say(f"{name}: {records(stream)}")
    tell_renewed(pipeline_id, eof, raw)
    tell_outdated(pipeline_id, eof, raw)
    finish(pipeline_id, eof, raw)


def _has_changes(rows: RowCounts) -> bool:
    return bool(rows.inserted or rows.updated or rows.deleted or rows.rejected)
