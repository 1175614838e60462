"""Commands on webhooks: events, replay, simulate_webhook_sync."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from pipesync.v1.pipeline_service_pb2 import (
    ListWebhookEventsRequest,
    ReplayWebhookEventsRequest,
    SimulateWebhookSyncRequest,
    WebhookEvent,
    WebhookEventStatus,
)
from pipesync_cli.app import open_client, synchronous
from pipesync_cli.output import echo, echo_json, echo_table
from pipesync_cli.pipelines import PipelineId, Raw
from pipesync_cli.plain import enum_to_plain
from pipesync_cli.sync import LINE_INTERVAL, finish, follow, progress_view

# Seconds.
_TIMEOUT = 60.0
_PAGE_SIZE = 1000
_DEFAULT_LIMIT = 50


class EventStatus(StrEnum):
    """Status of an accepted event."""

    PENDING = "pending"
    APPLIED = "applied"
    DEAD_LETTERED = "dead-lettered"


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for command in (events, replay):
        app.command()(synchronous(command))
    app.command("simulate_webhook_sync")(synchronous(simulate_webhook_sync))
    app.command("simulate-webhook-sync", hidden=True)(synchronous(simulate_webhook_sync))


async def events(
    command: typer.Context,
    pipeline_id: PipelineId,
    status: Annotated[
        EventStatus | None, typer.Option(help="Only events with this status.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help=f"Maximum number of events, {_DEFAULT_LIMIT} by default; 0 for all.",
        ),
    ] = None,
    raw: Raw = False,
) -> None:
    """List a pipeline's webhook events, latest first."""
    wanted = _DEFAULT_LIMIT if limit is None else limit
    request = ListWebhookEventsRequest(pipeline_id=pipeline_id, status=_number(status))
    found: list[WebhookEvent] = []
    async with open_client(command) as client:
        while True:
            request.page_size = min(wanted - len(found), _PAGE_SIZE) if wanted else _PAGE_SIZE
            page = await client.list_webhook_events(request, timeout=_TIMEOUT)
            found.extend(page.events)
            request.page_token = page.next_page_token
            if not page.next_page_token or len(found) == wanted:
                break
    if raw:
        for event in found:
            echo_json(event)
        return
    echo_table(
        ["EVENT", "TYPE", "STATUS", "RECEIVED (UTC)", "FAILED", "LAST ERROR"],
        [
            [
                event.id,
                event.type,
                str(enum_to_plain(WebhookEventStatus.DESCRIPTOR, event.status)),
                f"{event.receive_time.ToDatetime():%Y-%m-%d %H:%M:%S}",
                str(event.failed_attempt_count),
                " ".join(event.last_error.split()),
            ]
            for event in found
        ],
    )


async def replay(
    command: typer.Context,
    pipeline_id: PipelineId,
    event_id: Annotated[
        list[str] | None, typer.Argument(metavar="[EVENT_ID]...", help="Ids of the events.")
    ] = None,
    all_dead_lettered: Annotated[
        bool, typer.Option("--all", help="All dead-lettered events.")
    ] = False,
) -> None:
    """Apply webhook events again."""
    if bool(event_id) == all_dead_lettered:
        raise typer.BadParameter("give events, or --all.", param_hint="'replay'")
    request = ReplayWebhookEventsRequest(
        pipeline_id=pipeline_id, event_ids=event_id or [], all_dead_lettered=all_dead_lettered
    )
    async with open_client(command) as client:
        answer = await client.replay_webhook_events(request, timeout=_TIMEOUT)
    plural = "" if answer.replayed_count == 1 else "s"
    echo(f"{answer.replayed_count} event{plural} will be applied again")


async def simulate_webhook_sync(
    command: typer.Context,
    pipeline_id: PipelineId,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only events created since, e.g. 2026-01-31T12:00:00Z; default: 24 hours ago.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="At most the newest N events."),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print the messages as JSON, one per line.")
    ] = False,
) -> None:
    """Sync recent events as if sent by webhook.

    The events are fetched from the source. Checkpoints stay as they are.
    """
    request = SimulateWebhookSyncRequest(
        pipeline_id=pipeline_id, created_after=_time(since), limit=limit or 0
    )
    with progress_view(pipeline_id, raw, LINE_INTERVAL) as view:
        async with open_client(command) as client:
            eof = await follow(client.simulate_webhook_sync(request), view, raw=raw)
    finish(pipeline_id, eof, raw)


def _number(status: EventStatus | None) -> WebhookEventStatus.ValueType:
    return WebhookEventStatus.Value(
        f"WEBHOOK_EVENT_STATUS_{status.name if status else 'UNSPECIFIED'}"
    )


def _time(text: str | None) -> Timestamp | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a time such as 2026-01-31T12:00:00Z.", param_hint="'--since'"
        ) from None
    timestamp = Timestamp()
    # A time without a zone is UTC, like every time in the output.
    timestamp.FromDatetime(time if time.tzinfo else time.replace(tzinfo=UTC))
    return timestamp
