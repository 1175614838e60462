"""Rejected records: warnings, and the command retry_rejected."""

import typer

from pipesync.v1.pipeline_service_pb2 import RetryRejectedRecordsRequest
from pipesync.v1.state_pb2 import Eof
from pipesync_cli.app import open_client, synchronous
from pipesync_cli.output import echo, echo_json, print_warning
from pipesync_cli.pipelines import PipelineId, Raw

# Name of the table in the Postgres destination.
_TABLE = "_pipesync_rejected"


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command("retry_rejected")(synchronous(retry_rejected))
    app.command("retry-rejected", hidden=True)(synchronous(retry_rejected))


async def retry_rejected(command: typer.Context, pipeline_id: PipelineId, raw: Raw = False) -> None:
    """Retry the records that the destination rejected.

    A record that is older than its row is dropped. Exits 1 if any record is still rejected.
    """
    request = RetryRejectedRecordsRequest(pipeline_id=pipeline_id)
    async with open_client(command) as client:
        answer = await client.retry_rejected_records(request)
    left = answer.rejected_record_count
    if raw:
        echo_json(answer)
    else:
        outdated = answer.retried_record_count - answer.written_record_count - left
        echo(
            f"{_records(answer.retried_record_count)} retried: "
            f"{answer.written_record_count:,} written, {outdated:,} outdated, {left:,} rejected"
        )
    if left:
        print_warning(f"the destination still rejects {_records(left)}. {_remedy(pipeline_id)}")
        raise typer.Exit(1)


def rejected_warnings(pipeline_id: str, eof: Eof) -> list[str]:
    """Return a sentence for each stream with rejected records, or one for earlier syncs."""
    streams = [
        f"{name}: the destination rejected {_records(stream.rejected_record_count)}"
        for name, stream in sorted(eof.run_progress.streams.items())
        if stream.rejected_record_count
    ]
    if streams:
        return [f"{sentence}. {_remedy(pipeline_id)}" for sentence in streams]
    held = eof.held_rejected_record_count
    if held:
        return [f"the destination keeps {_records(held)} that it rejected. {_remedy(pipeline_id)}"]
    return []


def _records(count: int) -> str:
    return f"{count:,} record{'' if count == 1 else 's'}"


def _remedy(pipeline_id: str) -> str:
    return (
        f"The table {_TABLE} in its schema gives the reasons; after "
        f"fixing them, run pipelines retry_rejected {pipeline_id}"
    )
