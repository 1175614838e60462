"""Commands that sync: sync, and sync_batch, which repeats while there is more."""

import uuid
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, aclosing, nullcontext
from itertools import count
from typing import Annotated, Protocol

import typer
from google.protobuf.duration_pb2 import Duration

from pipesync.v1.message_pb2 import Message
from pipesync.v1.pipeline_service_pb2 import SyncPipelineBatchRequest, SyncPipelineRequest
from pipesync.v1.progress_pb2 import (
    RUN_STATUS_FAILED,
    ConnectionStatus,
    Progress,
    StreamProgress,
)
from pipesync.v1.state_pb2 import DeadLetter, Eof, Resumption
from pipesync_cli.app import awaited, open_client
from pipesync_cli.numbers import seconds, whole_number
from pipesync_cli.outdated import tell_outdated
from pipesync_cli.output import complain, log_line, say, say_json, warn
from pipesync_cli.pipelines import PipelineId
from pipesync_cli.progress import ProgressView, open_view, totals
from pipesync_cli.rejected import rejected_warnings
from pipesync_cli.rewound import rewound_lines

# Seconds between two lines of totals where no table can be drawn.
LINE_INTERVAL = 5.0

StateLimit = Annotated[
    int | None,
    typer.Option(
        parser=whole_number(1),
        metavar="N",
        help="Stop after N checkpoints.",
    ),
]
TimeLimit = Annotated[
    float | None, typer.Option(parser=seconds, metavar="S", help="Stop after S seconds.")
]
RunId = Annotated[str | None, typer.Option(metavar="R", help="Begin the run R, or go on with it.")]
ResetState = Annotated[bool, typer.Option("--reset-state", help="Forget the stored state first.")]


class _Answer(Protocol):
    @property
    def message(self) -> Message: ...


def register(app: typer.Typer) -> None:
    """Adds these commands to the program."""
    app.command()(awaited(sync))
    app.command("sync_batch")(awaited(sync_batch))
    app.command("sync-batch", hidden=True)(awaited(sync_batch))


async def sync(
    command: typer.Context,
    pipeline_id: PipelineId,
    state_limit: StateLimit = None,
    time_limit: TimeLimit = None,
    run_id: RunId = None,
    reset_state: ResetState = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print the messages as JSON, one a line.")
    ] = False,
) -> None:
    """Sync a pipeline, message by message.

    It goes on from the stored state, and every checkpoint is stored as it passes.
    """
    request = SyncPipelineRequest(
        id=pipeline_id,
        run_id=run_id or "",
        state_limit=state_limit or 0,
        time_limit=duration(time_limit),
        reset_state=reset_state,
    )
    with view_of(pipeline_id, raw, LINE_INTERVAL) as view:
        async with open_client(command) as client:
            eof = await follow(client.sync_pipeline(request), view, raw=raw)
    tell_outdated(pipeline_id, eof, raw)
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
            parser=whole_number(0),
            metavar="N",
            help="Repeat up to N times while there is more; 0 until there is no more.",
        ),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print each call's result as JSON, one a line.")
    ] = False,
) -> None:
    """Sync a pipeline, call by call.

    Each call goes on from the stored state; with --loop, all of them are one run.

    The limits hold for each call; the state is forgotten before the first one only. Enum values in
    JSON are short and in lower case: "status": "succeeded".
    """
    request = SyncPipelineBatchRequest(
        id=pipeline_id,
        run_id=run_id or (f"run-{uuid.uuid4().hex[:12]}" if loop is not None else ""),
        state_limit=state_limit or 0,
        time_limit=duration(time_limit),
        reset_state=reset_state,
    )
    calls = range(1) if loop is None else range(loop) if loop else count()
    eof = await run_batches(command, request, calls, raw)
    tell_outdated(pipeline_id, eof, raw)
    finish(pipeline_id, eof, raw)


async def run_batches(
    command: typer.Context, request: SyncPipelineBatchRequest, calls: Iterable[int], raw: bool
) -> Eof | None:
    """Repeats a call while there is more, once for each of ``calls`` at most.

    Args:
        command: The command that is run.
        request: What is asked; the state is reset by the first call only.
        calls: Their numbers.
        raw: Whether each result is printed as JSON; else the progress is shown.

    Returns:
        How the last one ended, with the dead letters of all; None when there was none.
    """
    eof: Eof | None = None
    letters: list[DeadLetter] = []
    with view_of(request.id, raw, 0.0) as view:
        async with open_client(command) as client:
            for _ in calls:
                eof = (await client.sync_pipeline_batch(request)).eof
                if raw:
                    say_json(eof)
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
    """Shows each message of a sync as it comes; how the sync ended.

    Args:
        answers: Of the call.
        view: Where to draw; None with ``raw``.
        raw: Print the messages as JSON instead.
    """
    eof: Eof | None = None
    async with aclosing(answers):
        async for answer in answers:
            message = answer.message
            if raw:
                say_json(message)
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


def view_of(
    pipeline_id: str, raw: bool, interval: float
) -> AbstractContextManager[ProgressView | None]:
    """Where progress is drawn, at most once in ``interval`` seconds; nowhere with ``raw``."""
    return nullcontext() if raw else open_view(pipeline_id, interval=interval)


def duration(limit: float | None) -> Duration | None:
    """A limit in seconds as the contract has it; None for none."""
    if limit is None:
        return None
    found = Duration()
    found.FromNanoseconds(max(1, round(limit * 1e9)))
    return found


def finish(pipeline_id: str, eof: Eof | None, raw: bool) -> None:
    """Says how it ended, and exits non-zero unless all is well.

    Raises:
        typer.Exit: It failed, events were given up, or the destination keeps records that it
            rejected.
    """
    if eof is None:
        complain("the sync ended without saying how")
        raise typer.Exit(1)
    if not raw:
        for sentence in _replaced(eof.run_progress):
            warn(sentence)
        for sentence in _failures(eof.run_progress):
            complain(sentence)
        if eof.failure_message:
            complain(eof.failure_message)
        for sentence in _given_up(eof.dead_letters):
            complain(sentence)
        say(f"{totals(eof.run_progress)}{'; there is more' if eof.has_more else ''}")
    # Also with --raw: stdout is for JSON alone, and this is not on it.
    warnings = rejected_warnings(pipeline_id, eof)
    for sentence in warnings:
        warn(sentence)
    if eof.status == RUN_STATUS_FAILED or eof.dead_letters or warnings:
        raise typer.Exit(1)


def _replaced(progress: Progress) -> list[str]:
    return [
        f"{name}: {stream.replaced_record_count:,} records held characters that the destination "
        "cannot hold; U+FFFD is in their place"
        for name, stream in sorted(progress.streams.items())
        if stream.replaced_record_count
    ]


def _given_up(letters: Sequence[DeadLetter]) -> Iterator[str]:
    """A sentence for each event that was given up, and their number."""
    for letter in letters:
        plural = "" if letter.attempt_count == 1 else "s"
        yield (
            f"event {letter.event_id} ({letter.event_type}) was given up after "
            f"{letter.attempt_count} attempt{plural}: {letter.reason}"
        )
    if letters:
        was = "1 event was" if len(letters) == 1 else f"{len(letters)} events were"
        yield f"{was} given up; 'events --status set-aside' lists them, 'replay' tries again"


def _failures(progress: Progress) -> list[str]:
    failures = [
        f"{name}: {stream.message}"
        for name, stream in sorted(progress.streams.items())
        if stream.status == StreamProgress.STATUS_ERRORED
    ]
    if progress.connection_status.status == ConnectionStatus.STATUS_FAILED:
        failures.append(progress.connection_status.message)
    return failures
