"""Commands that keep pipelines: create, list, get, update, delete, pause, resume."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from pipesync.v1.pipeline_service_pb2 import (
    DESIRED_STATUS_ACTIVE,
    DESIRED_STATUS_PAUSED,
    SYNC_POLICY_CONTINUOUS,
    SYNC_POLICY_MANUAL,
    CreatePipelineRequest,
    DeletePipelineRequest,
    DesiredStatus,
    GetPipelineRequest,
    ListPipelinesRequest,
    Pipeline,
    PipelineStatus,
    SyncPolicy,
    UpdatePipelineRequest,
)
from pipesync_cli.app import awaited, open_client
from pipesync_cli.config import ConnectorFlags, apply_streams, read_pipeline
from pipesync_cli.output import log_line, note, say, say_json, say_table, say_yaml, unreadable_line
from pipesync_cli.plain import enum_to_plain
from pipesync_client import PipelineClient

# Seconds; creating a pipeline reaches both of its connectors first.
_TIMEOUT = 120.0
_PAGE_SIZE = 1000

PipelineId = Annotated[str, typer.Argument(metavar="ID", help="The pipeline.", show_default=False)]
File = Annotated[
    Path | None, typer.Option("-f", "--file", help="A YAML file with the pipeline's fields.")
]
SourceConfig = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="A setting of the source; a secret as @env:NAME or @file:PATH.",
    ),
]
DestinationConfig = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="A setting of the destination; a secret as @env:NAME or @file:PATH.",
    ),
]
SourceType = Annotated[str | None, typer.Option("--source", help="Its type, e.g. stripe.")]
DestinationType = Annotated[
    str | None, typer.Option("--destination", help="Its type, e.g. postgres.")
]
StreamNames = Annotated[
    list[str] | None,
    typer.Option(
        "--stream", metavar="NAME", help="A stream to sync, once for each; none means all."
    ),
]
Raw = Annotated[bool, typer.Option("--raw", help="Print JSON.")]


class Policy(StrEnum):
    """Who has a pipeline sync."""

    MANUAL = "manual"
    CONTINUOUS = "continuous"


_POLICIES = {Policy.MANUAL: SYNC_POLICY_MANUAL, Policy.CONTINUOUS: SYNC_POLICY_CONTINUOUS}


def register(app: typer.Typer) -> None:
    """Adds these commands to the program."""
    for command in (create, get, update, delete, pause, resume):
        app.command()(awaited(command))
    app.command("list")(awaited(list_all))


async def create(
    command: typer.Context,
    pipeline_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="None has the service make one.")
    ] = None,
    file: File = None,
    source: SourceType = None,
    source_config: SourceConfig = None,
    destination: DestinationType = None,
    destination_config: DestinationConfig = None,
    stream: StreamNames = None,
    continuous: Annotated[
        bool, typer.Option("--continuous", help="Have the service keep it in sync by itself.")
    ] = False,
    skip_check: Annotated[
        bool, typer.Option("--skip-check", help="Do not try to reach the connectors first.")
    ] = False,
    raw: Raw = False,
) -> None:
    """Store a new pipeline, and print it."""
    pipeline = read_pipeline(file)
    if pipeline_id:
        pipeline.id = pipeline_id
    for flags, connector in (
        (_flags("source", source, source_config), pipeline.config.source),
        (_flags("destination", destination, destination_config), pipeline.config.destination),
    ):
        if flags.is_given():
            flags.apply(connector)
    apply_streams(stream or [], pipeline)
    if continuous:
        pipeline.sync_policy = SYNC_POLICY_CONTINUOUS
    request = CreatePipelineRequest(pipeline=pipeline, skip_check=skip_check)
    async with open_client(command) as client:
        answer = await client.create_pipeline(request, timeout=_TIMEOUT)
    for unreadable in answer.unreadable_streams:
        note(f"warning: {unreadable_line(unreadable)}")
    for notice in answer.notices:
        note(f"note: {notice}")
    _say_pipeline(answer.pipeline, raw)


async def get(command: typer.Context, pipeline_id: PipelineId, raw: Raw = False) -> None:
    """Print a pipeline."""
    async with open_client(command) as client:
        _say_pipeline(await _stored(client, pipeline_id), raw)


async def list_all(command: typer.Context, raw: Raw = False) -> None:
    """Print all pipelines."""
    pipelines: list[Pipeline] = []
    request = ListPipelinesRequest(page_size=_PAGE_SIZE)
    async with open_client(command) as client:
        while True:
            page = await client.list_pipelines(request, timeout=_TIMEOUT)
            pipelines.extend(page.pipelines)
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
    if raw:
        for pipeline in pipelines:
            say_json(pipeline)
        return
    say_table(
        ["ID", "STATUS", "DESIRED", "POLICY", "SOURCE", "DESTINATION", "UPDATED (UTC)", "WHY"],
        [
            [
                pipeline.id,
                str(enum_to_plain(PipelineStatus.DESCRIPTOR, pipeline.status)),
                str(enum_to_plain(DesiredStatus.DESCRIPTOR, pipeline.desired_status)),
                str(enum_to_plain(SyncPolicy.DESCRIPTOR, pipeline.sync_policy)),
                pipeline.config.source.type,
                pipeline.config.destination.type,
                f"{pipeline.update_time.ToDatetime():%Y-%m-%d %H:%M:%S}",
                " ".join(pipeline.status_message.split()),
            ]
            for pipeline in pipelines
        ],
    )


async def update(
    command: typer.Context,
    pipeline_id: PipelineId,
    file: File = None,
    source: SourceType = None,
    source_config: SourceConfig = None,
    destination: DestinationType = None,
    destination_config: DestinationConfig = None,
    stream: StreamNames = None,
    sync_policy: Annotated[
        Policy | None,
        typer.Option(help="Whether the service keeps it in sync by itself."),
    ] = None,
    etag: Annotated[
        str | None, typer.Option(help="Refuse when the pipeline has changed since it had this.")
    ] = None,
    raw: Raw = False,
) -> None:
    """Change what is given, leave the rest, and print the pipeline."""
    pipeline = read_pipeline(file)
    paths = _given_paths(pipeline)
    pipeline.id = pipeline_id
    pipeline.etag = etag or pipeline.etag
    async with open_client(command) as client:
        for flags in (
            _flags("source", source, source_config),
            _flags("destination", destination, destination_config),
        ):
            path = f"config.{flags.side}"
            if not flags.is_given():
                continue
            connector = getattr(pipeline.config, flags.side)
            if path not in paths:
                # Its secrets come masked, and the service keeps a secret that comes back masked.
                stored = await _stored(client, pipeline_id)
                connector.CopyFrom(getattr(stored.config, flags.side))
                paths.append(path)
            flags.apply(connector)
        apply_streams(stream or [], pipeline)
        if stream and "config.streams" not in paths:
            paths.append("config.streams")
        if sync_policy is not None:
            pipeline.sync_policy = _POLICIES[sync_policy]
            if "sync_policy" not in paths:
                paths.append("sync_policy")
        if not paths:
            raise typer.BadParameter("nothing to change was given.", param_hint="'update'")
        request = UpdatePipelineRequest(pipeline=pipeline, update_mask=FieldMask(paths=paths))
        answer = await client.update_pipeline(request, timeout=_TIMEOUT)
    _say_pipeline(answer.pipeline, raw)


async def delete(
    command: typer.Context,
    pipeline_id: PipelineId,
    skip_teardown: Annotated[
        bool, typer.Option("--skip-teardown", help="Leave tables and webhook endpoints in place.")
    ] = False,
) -> None:
    """Tear a pipeline down and forget it."""
    request = DeletePipelineRequest(id=pipeline_id, skip_teardown=skip_teardown)
    async with open_client(command) as client:
        answer = await client.delete_pipeline(request, timeout=_TIMEOUT)
    for message in answer.messages:
        if message.HasField("log"):
            note(log_line(message))
    say(f"{pipeline_id} deleted")


async def pause(command: typer.Context, pipeline_id: PipelineId) -> None:
    """Have a pipeline not sync until it is resumed."""
    await _set_desired_status(command, pipeline_id, DESIRED_STATUS_PAUSED)
    say(f"{pipeline_id} paused")


async def resume(command: typer.Context, pipeline_id: PipelineId) -> None:
    """Let a paused pipeline sync again."""
    await _set_desired_status(command, pipeline_id, DESIRED_STATUS_ACTIVE)
    say(f"{pipeline_id} resumed")


async def _set_desired_status(
    command: typer.Context, pipeline_id: str, status: DesiredStatus.ValueType
) -> None:
    request = UpdatePipelineRequest(
        pipeline=Pipeline(id=pipeline_id, desired_status=status),
        update_mask=FieldMask(paths=["desired_status"]),
    )
    async with open_client(command) as client:
        await client.update_pipeline(request, timeout=_TIMEOUT)


async def _stored(client: PipelineClient, pipeline_id: str) -> Pipeline:
    return (
        await client.get_pipeline(GetPipelineRequest(id=pipeline_id), timeout=_TIMEOUT)
    ).pipeline


def _flags(side: str, connector_type: str | None, settings: list[str] | None) -> ConnectorFlags:
    return ConnectorFlags(side=side, type=connector_type, settings=settings or [])


def _given_paths(pipeline: Pipeline) -> list[str]:
    paths = [
        f"config.{side}" for side in ("source", "destination") if pipeline.config.HasField(side)
    ]
    if pipeline.config.streams:
        paths.append("config.streams")
    paths.extend(name for name in ("desired_status", "sync_policy") if getattr(pipeline, name))
    return paths


def _say_pipeline(pipeline: Pipeline, raw: bool) -> None:
    if raw:
        say_json(pipeline)
    else:
        say_yaml(pipeline)
