"""Commands about webhooks: events, replay, simulate_webhook_sync."""

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
from pipesync_cli.app import awaited, open_client
from pipesync_cli.numbers import whole_number
from pipesync_cli.output import say, say_json, say_table
from pipesync_cli.pipelines import PipelineId, Raw
from pipesync_cli.plain import enum_to_plain
from pipesync_cli.sync import LINE_INTERVAL, finish, follow, view_of

# Seconds.
_TIMEOUT = 60.0
_PAGE_SIZE = 1000
_DEFAULT_LIMIT = 50


class EventStatus(StrEnum):
    """What became of an event."""

    PENDING = "pending"
    APPLIED = "applied"
    SET_ASIDE = "set-aside"


def register(app: typer.Typer) -> None:
    """Adds these commands to the program."""
    for command in (events, replay):
        app.command()(awaited(command))
    app.command("simulate_webhook_sync")(awaited(simulate_webhook_sync))
    app.command("simulate-webhook-sync", hidden=True)(awaited(simulate_webhook_sync))


async def events(
    command: typer.Context,
    pipeline_id: PipelineId,
    status: Annotated[EventStatus | None, typer.Option(help="Only those of this status.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            parser=whole_number(0),
            metavar="N",
            help=f"At most N events, {_DEFAULT_LIMIT} unless given; 0 for all.",
        ),
    ] = None,
    raw: Raw = False,
) -> None:
    """List the webhook events that a pipeline took in, the latest first."""
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
            say_json(event)
        return
    say_table(
        ["EVENT", "TYPE", "STATUS", "RECEIVED (UTC)", "FAILED", "LAST ERROR"],
        [
            [
                event.id,
                event.type,
                str(enum_to_plain(WebhookEventStatus.DESCRIPTOR, event.status)),
                f"{event.receive_time.ToDatetime():%Y-%m-%d %H:%M:%S}",
                str(event.failed_attempts),
                " ".join(event.last_error.split()),
            ]
            for event in found
        ],
    )


async def replay(
    command: typer.Context,
    pipeline_id: PipelineId,
    event_id: Annotated[
        list[str] | None, typer.Argument(metavar="[EVENT_ID]...", help="Which events.")
    ] = None,
    all_set_aside: Annotated[
        bool, typer.Option("--all", help="All events that are set aside.")
    ] = False,
) -> None:
    """Have webhook events applied again."""
    if bool(event_id) == all_set_aside:
        raise typer.BadParameter("give events, or --all.", param_hint="'replay'")
    request = ReplayWebhookEventsRequest(
        pipeline_id=pipeline_id, event_ids=event_id or [], all_set_aside=all_set_aside
    )
    async with open_client(command) as client:
        answer = await client.replay_webhook_events(request, timeout=_TIMEOUT)
    plural = "" if answer.replayed_count == 1 else "s"
    say(f"{answer.replayed_count} event{plural} to be applied again")


async def simulate_webhook_sync(
    command: typer.Context,
    pipeline_id: PipelineId,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Events made since then, e.g. 2026-01-31T12:00:00Z; the last 24 hours by default.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(parser=whole_number(1), metavar="N", help="The newest N events at most."),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print the messages as JSON, one a line.")
    ] = False,
) -> None:
    """Sync recent events as if they had come in by webhook.

    They are fetched from the source. No checkpoint moves.
    """
    request = SimulateWebhookSyncRequest(
        id=pipeline_id, created_after=_time(since), limit=limit or 0
    )
    with view_of(pipeline_id, raw, LINE_INTERVAL) as view:
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
    # Without a zone it is taken as UTC, like every time that is printed.
    timestamp.FromDatetime(time if time.tzinfo else time.replace(tzinfo=UTC))
    return timestamp
