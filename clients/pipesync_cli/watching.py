"""Commands that observe pipelines: watch, runs."""

import asyncio
from contextlib import aclosing, nullcontext
from typing import Annotated

import typer
from google.rpc import code_pb2

from pipesync.v1.pipeline_service_pb2 import (
    ListRunsRequest,
    Pipeline,
    PipelineStatus,
    Run,
    WatchPipelineRequest,
)
from pipesync.v1.progress_pb2 import RunStatus
from pipesync_cli.app import open_client, synchronous
from pipesync_cli.output import echo_json, echo_table, print_note
from pipesync_cli.pipelines import PipelineId, Raw
from pipesync_cli.plain import enum_to_plain
from pipesync_cli.progress import ProgressView, open_view
from pipesync_cli.rewound import rewound_reasons
from pipesync_cli.rows import all_records
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError

# Seconds.
_TIMEOUT = 30.0
_LINE_INTERVAL = 5.0
_RECONNECT_DELAY = 1.0
_MAX_RUNS = 1000


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for command in (watch, runs):
        app.command()(synchronous(command))


async def watch(
    command: typer.Context,
    pipeline_id: PipelineId,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print the pipeline as JSON, one line per change.")
    ] = False,
) -> None:
    """Show a pipeline's status and progress.

    Follows its latest run until interrupted, or until the pipeline is deleted.
    """
    watcher = _Watcher(pipeline_id)
    view = (
        nullcontext() if raw else open_view(pipeline_id, interval=_LINE_INTERVAL, doing="watching")
    )
    with view as drawn:
        async with open_client(command) as client:
            while True:
                try:
                    await watcher.follow(client, drawn)
                except RpcError as error:
                    if not watcher.has_seen:
                        raise
                    if error.code == code_pb2.NOT_FOUND:
                        break
                    if error.code != code_pb2.UNAVAILABLE:
                        raise
                await asyncio.sleep(_RECONNECT_DELAY)
    print_note(f"{pipeline_id} was deleted")


async def runs(
    command: typer.Context,
    pipeline_id: PipelineId,
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Number of runs; 20 by default."),
    ] = None,
    raw: Raw = False,
) -> None:
    """List a pipeline's runs, newest first."""
    wanted = limit or 20
    found: list[Run] = []
    request = ListRunsRequest(pipeline_id=pipeline_id)
    async with open_client(command) as client:
        while len(found) < wanted:
            request.page_size = min(wanted - len(found), _MAX_RUNS)
            page = await client.list_runs(request, timeout=_TIMEOUT)
            found.extend(page.runs)
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
    if raw:
        for run in found:
            echo_json(run)
        return
    echo_table(
        ["RUN", "STATUS", "STARTED (UTC)", "TOOK", "RECORDS", "FAILURE"],
        [
            [
                run.run_id,
                str(enum_to_plain(RunStatus.DESCRIPTOR, run.status)),
                f"{run.start_time.ToDatetime():%Y-%m-%d %H:%M:%S}",
                _took(run),
                all_records(run.progress.derived),
                " ".join(run.failure_message.split()),
            ]
            for run in found
        ],
    )


class _Watcher:
    """The latest state of a pipeline, across reconnections."""

    def __init__(self, pipeline_id: str) -> None:
        self._request = WatchPipelineRequest(pipeline_id=pipeline_id)
        self._latest = Pipeline()
        self._last_line = ""
        self._rewound: dict[str, str] = {}

    @property
    def has_seen(self) -> bool:
        """Whether the pipeline has been shown."""
        return bool(self._latest.id)

    async def follow(self, client: PipelineClient, view: ProgressView | None) -> None:
        """Show every change until the service ends the watch; prints JSON without a view."""
        async with aclosing(client.watch_pipeline(self._request)) as answers:
            async for answer in answers:
                pipeline = answer.pipeline
                if pipeline == self._latest:
                    continue
                if view is None:
                    echo_json(pipeline)
                else:
                    self._show(pipeline, view)
                self._latest = pipeline

    def _show(self, pipeline: Pipeline, view: ProgressView) -> None:
        word = str(enum_to_plain(PipelineStatus.DESCRIPTOR, pipeline.status))
        why = " ".join(pipeline.status_message.split())
        line = f"{pipeline.id}: {word}{f': {why}' if why else ''}"
        if line != self._last_line:
            self._last_line = line
            view.result(line)
        if pipeline.HasField("progress") and pipeline.progress != self._latest.progress:
            self._show_rewound(pipeline, view)
            view.show(pipeline.progress)

    def _show_rewound(self, pipeline: Pipeline, view: ProgressView) -> None:
        reasons = rewound_reasons(pipeline.progress)
        for name, reason in reasons.items():
            if self._rewound.get(name) != reason:
                view.result(f"{pipeline.id}: {name} was rewound: {reason}")
        self._rewound = reasons


def _took(run: Run) -> str:
    if not run.HasField("end_time"):
        return "running"
    seconds = (run.end_time.ToDatetime() - run.start_time.ToDatetime()).total_seconds()
    return f"{seconds:,.1f} s"
