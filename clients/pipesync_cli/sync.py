"""Commands sync, and sync_batch, which repeats while there is more."""

import uuid
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, aclosing, nullcontext
from itertools import count
from typing import Annotated, Protocol

import typer
from google.protobuf.duration_pb2 import Duration
from pydantic import Field

from pipesync.v1.message_pb2 import Message
from pipesync.v1.pipeline_service_pb2 import SyncPipelineBatchRequest, SyncPipelineRequest
from pipesync.v1.progress_pb2 import (
    RUN_STATUS_FAILED,
    ConnectionStatus,
    Progress,
    StreamProgress,
)
from pipesync.v1.state_pb2 import DeadLetter, Eof, Resumption
from pipesync_cli.app import open_client, synchronous
from pipesync_cli.outdated import report_outdated
from pipesync_cli.output import echo, echo_json, log_line, print_error, print_warning
from pipesync_cli.pipelines import PipelineId
from pipesync_cli.progress import ProgressView, open_view, totals
from pipesync_cli.rejected import rejected_warnings
from pipesync_cli.rewound import rewound_lines

# Seconds between two lines of totals if no table can be drawn.
LINE_INTERVAL = 5.0

StateLimit = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Stop after N checkpoints.",
    ),
]
TimeLimit = Annotated[
    Annotated[float, Field(gt=0, allow_inf_nan=False)] | None,
    typer.Option(metavar="S", help="Stop after S seconds."),
]
RunId = Annotated[str | None, typer.Option(metavar="R", help="Start or resume the run R.")]
ResetState = Annotated[bool, typer.Option("--reset-state", help="Reset the stored state first.")]


class _Answer(Protocol):
    @property
    def message(self) -> Message: ...


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(synchronous(sync))
    app.command("sync_batch")(synchronous(sync_batch))
    app.command("sync-batch", hidden=True)(synchronous(sync_batch))


async def sync(
    command: typer.Context,
    pipeline_id: PipelineId,
    state_limit: StateLimit = None,
    time_limit: TimeLimit = None,
    run_id: RunId = None,
    reset_state: ResetState = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print the messages as JSON, one per line.")
    ] = False,
) -> None:
    """Sync a pipeline, message by message.

    Resumes from the stored state, and stores every checkpoint as it arrives.
    """
    request = SyncPipelineRequest(
        pipeline_id=pipeline_id,
        run_id=run_id or "",
        state_limit=state_limit or 0,
        time_limit=duration(time_limit),
        reset_state=reset_state,
    )
    with progress_view(pipeline_id, raw, LINE_INTERVAL) as view:
        async with open_client(command) as client:
            eof = await follow(client.sync_pipeline(request), view, raw=raw)
    report_outdated(pipeline_id, eof, raw)
    finish(pipeline_id, eof, raw)


async def sync_batch(
    command: typer.Context,
    pipeline_id: PipelineId,
    state_limit: StateLimit = None,
    time_limit: TimeLimit = None,
    run_id: RunId = None,
    reset_state: ResetState = False,
    loop: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Repeat up to N times while there is more to sync; 0 for no limit.",
        ),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print each call's result as JSON, one per line.")
    ] = False,
) -> None:
    """Sync a pipeline, call by call.

    Each call resumes from the stored state; with --loop, all calls are one run.

    The limits apply to each call; --reset-state applies to the first one only. Enum values in JSON
    are short and in lower case: "status": "succeeded".
    """
    request = SyncPipelineBatchRequest(
        pipeline_id=pipeline_id,
        run_id=run_id or (f"run-{uuid.uuid4().hex[:12]}" if loop is not None else ""),
        state_limit=state_limit or 0,
        time_limit=duration(time_limit),
        reset_state=reset_state,
    )
    calls = range(1) if loop is None else range(loop) if loop else count()
    eof = await run_batches(command, request, calls, raw)
    report_outdated(pipeline_id, eof, raw)
    finish(pipeline_id, eof, raw)


async def run_batches(
    command: typer.Context, request: SyncPipelineBatchRequest, calls: Iterable[int], raw: bool
) -> Eof | None:
    """Repeat a call while there is more to sync, at most once for each of ``calls``.

    Args:
        command: The current command.
        request: Request of each call; only the first one resets the state.
        calls: Numbers of the calls.
        raw: Whether to print each result as JSON; otherwise progress is shown.

    Returns:
        End of the last call, with the dead letters of all calls; None without a call.
    """
    eof: Eof | None = None
    letters: list[DeadLetter] = []
    with progress_view(request.pipeline_id, raw, 0.0) as view:
        async with open_client(command) as client:
            for _ in calls:
                eof = (await client.sync_pipeline_batch(request)).eof
                if raw:
                    echo_json(eof)
                elif view is not None:
                    _show_rewound(view, eof)
                    view.show(eof.run_progress)
                    if eof.limit_message and eof.has_more:
                        view.log(f"warning: {eof.limit_message}")
                letters.extend(eof.dead_letters)
                if not eof.has_more:
                    break
                request.reset_state = False
    if eof is not None:
        del eof.dead_letters[:]
        eof.dead_letters.extend(letters)
    return eof


async def follow(
    answers: AsyncGenerator[_Answer, None], view: ProgressView | None, *, raw: bool
) -> Eof | None:
    """Show each message of a sync as it arrives, and return the end of the sync.

    Args:
        answers: Responses of the call.
        view: Progress display; None with ``raw``.
        raw: Whether to print the messages as JSON instead.
    """
    eof: Eof | None = None
    async with aclosing(answers):
        async for answer in answers:
            message = answer.message
            if raw:
                echo_json(message)
            elif view is not None and message.HasField("log"):
                view.log(log_line(message))
            elif view is not None and message.HasField("progress"):
                view.show(message.progress)
            elif view is not None and message.HasField("resumption"):
                _show_rewound(view, message.resumption)
            if message.HasField("eof"):
                eof = message.eof
                if view is not None and eof.limit_message and eof.has_more:
                    view.log(f"warning: {eof.limit_message}")
    return eof


def _show_rewound(view: ProgressView, found: Resumption | Eof) -> None:
    for line in rewound_lines(found):
        view.log(line)


def progress_view(
    pipeline_id: str, raw: bool, interval: float
) -> AbstractContextManager[ProgressView | None]:
    """Return a progress display, with totals every ``interval`` seconds; None with ``raw``."""
    return nullcontext() if raw else open_view(pipeline_id, interval=interval)


def duration(limit: float | None) -> Duration | None:
    """Return a limit in seconds as a protobuf duration; None for no limit."""
    if limit is None:
        return None
    found = Duration()
    found.FromNanoseconds(max(1, round(limit * 1e9)))
    return found


def finish(pipeline_id: str, eof: Eof | None, raw: bool) -> None:
    """Report the end of a sync, and exit with 1 unless it succeeded completely.

    Raises:
        typer.Exit: The sync failed, events were dead-lettered, or the destination keeps rejected
            records.
    """
    if eof is None:
        print_error("the sync ended without a result")
        raise typer.Exit(1)
    if not raw:
        for sentence in _replaced(eof.run_progress):
            print_warning(sentence)
        for sentence in _failures(eof.run_progress):
            print_error(sentence)
        if eof.failure_message:
            print_error(eof.failure_message)
        for sentence in _dead_lettered(eof.dead_letters):
            print_error(sentence)
        echo(f"{totals(eof.run_progress)}{'; there is more' if eof.has_more else ''}")
    # Also with --raw, because stderr is not part of the JSON output.
    warnings = rejected_warnings(pipeline_id, eof)
    for sentence in warnings:
        print_warning(sentence)
    if eof.status == RUN_STATUS_FAILED or eof.dead_letters or warnings:
        raise typer.Exit(1)


def _replaced(progress: Progress) -> list[str]:
    return [
        f"{name}: {stream.replaced_record_count:,} records held characters that the destination "
        "cannot store; U+FFFD replaces them"
        for name, stream in sorted(progress.streams.items())
        if stream.replaced_record_count
    ]


def _dead_lettered(letters: Sequence[DeadLetter]) -> Iterator[str]:
    """Yield a sentence for each dead-lettered event, and one with their number."""
    for letter in letters:
        plural = "" if letter.attempt_count == 1 else "s"
        yield (
            f"event {letter.event_id} ({letter.event_type}) was dead-lettered after "
            f"{letter.attempt_count} attempt{plural}: {letter.reason}"
        )
    if letters:
        were = "1 event was" if len(letters) == 1 else f"{len(letters)} events were"
        yield (
            f"{were} dead-lettered: list with 'events --status dead-lettered', retry with 'replay'"
        )


def _failures(progress: Progress) -> list[str]:
    failures = [
        f"{name}: {stream.message}"
        for name, stream in sorted(progress.streams.items())
        if stream.status == StreamProgress.STATUS_ERRORED
    ]
    if progress.connection_status.status == ConnectionStatus.STATUS_FAILED:
        failures.append(progress.connection_status.message)
    return failures
