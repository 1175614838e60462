"""Commands that remove the resources that setup created: teardown, delete."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated

import typer

from pipesync.v1.message_pb2 import Message, PlannedRemoval
from pipesync.v1.pipeline_service_pb2 import (
    DeletePipelineRequest,
    TeardownPipelineRequest,
    TeardownPipelineResponse,
)
from pipesync_cli.app import open_client
from pipesync_cli.operations import Only, Side, messages_of, side_number
from pipesync_cli.output import echo, log_line, print_error, print_note
from pipesync_cli.pipelines import PipelineId

# Seconds.
_TIMEOUT = 120.0
_KINDS = {
    PlannedRemoval.KIND_SCHEMA: "schema ",
    PlannedRemoval.KIND_TABLE: "table ",
    PlannedRemoval.KIND_ROWS: "rows of table ",
    PlannedRemoval.KIND_WEBHOOK_ENDPOINT: "webhook endpoint ",
}

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Skip the preview and the confirmation.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(teardown)
    app.command()(delete)


# Not coroutines, because waiting for the answer to a question would block the event loop.
def teardown(
    command: typer.Context, pipeline_id: PipelineId, only: Only = None, yes: Yes = False
) -> None:
    """Remove everything that setup created.

    This includes the data. Shows the removals and asks for confirmation. Nothing is removed if the
    pipeline changes before the answer. Without a terminal, --yes is required.
    """
    request = TeardownPipelineRequest(pipeline_id=pipeline_id, side=side_number(only))
    if not yes:
        _require_terminal()
        planned = TeardownPipelineRequest(
            pipeline_id=pipeline_id, side=request.side, validate_only=True
        )
        plan, request.etag = asyncio.run(_tear_down(command, planned))
        # The state describes the destination's tables, and is removed with them.
        kept = "" if only is Side.SOURCE else "its state"
        _ask(f"The teardown of {pipeline_id} removes:", plan, kept)
    asyncio.run(_tear_down(command, request))
    echo(f"{pipeline_id} torn down")


def delete(
    command: typer.Context,
    pipeline_id: PipelineId,
    skip_teardown: Annotated[
        bool, typer.Option("--skip-teardown", help="Leave tables and webhook endpoints in place.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Tear down a pipeline and delete it.

    Shows the removals and asks for confirmation. Nothing is removed if the pipeline changes before
    the answer. Without a terminal, --yes is required.
    """
    request = DeletePipelineRequest(pipeline_id=pipeline_id, skip_teardown=skip_teardown)
    if not yes:
        _require_terminal()
        planned = DeletePipelineRequest(
            pipeline_id=pipeline_id, skip_teardown=skip_teardown, validate_only=True
        )
        plan, request.etag = asyncio.run(_delete(command, planned))
        kept = "the pipeline itself, with its state, runs and webhook events"
        _ask(f"The deletion of {pipeline_id} removes:", plan, kept)
    asyncio.run(_delete(command, request))
    echo(f"{pipeline_id} deleted")


async def _tear_down(
    command: typer.Context, request: TeardownPipelineRequest
) -> tuple[list[Message], str]:
    """Return the messages other than logs, and the etag of the planned pipeline."""
    etag = ""

    async def noting_etag(
        answers: AsyncGenerator[TeardownPipelineResponse, None],
    ) -> AsyncGenerator[TeardownPipelineResponse, None]:
        nonlocal etag
        async with aclosing(answers):
            async for answer in answers:
                etag = answer.etag
                yield answer

    async with open_client(command) as client:
        messages = await messages_of(noting_etag(client.teardown_pipeline(request)))
    return messages, etag


async def _delete(
    command: typer.Context, request: DeletePipelineRequest
) -> tuple[list[Message], str]:
    """Return the messages other than logs, and the etag of the planned pipeline."""
    async with open_client(command) as client:
        answer = await client.delete_pipeline(request, timeout=_TIMEOUT)
    for message in answer.messages:
        if message.HasField("log"):
            print_note(log_line(message))
    return [message for message in answer.messages if not message.HasField("log")], answer.etag


def _require_terminal() -> None:
    if not sys.stdin.isatty():
        print_error("there is no terminal to ask at: give --yes to remove the data without asking")
        raise typer.Exit(2)


def _ask(title: str, plan: Sequence[Message], in_service: str) -> None:
    """Show the planned removals, and exit unless the user agrees."""
    print_note(title)
    for message in plan:
        if message.HasField("planned_removal"):
            print_note(f"  {message.emitted_by}: {_line(message.planned_removal)}")
    if in_service:
        print_note(f"  service: {in_service}")
    print_note("Remove this? [y/N]")
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        print_note("nothing was removed")
        raise typer.Exit(1)


def _line(removal: PlannedRemoval) -> str:
    line = f"{_KINDS.get(removal.kind, '')}{removal.name}"
    if removal.HasField("estimated_row_count"):
        line += f" (about {removal.estimated_row_count:,} rows)"
    return f"{line}: {removal.note}" if removal.note else line
