"""Commands on connectors: connectors, discover, check, setup."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from enum import StrEnum
from typing import Annotated, Protocol, TypeVar

import typer

from pipesync.v1.catalog_pb2 import Catalog
from pipesync.v1.engine_service_pb2 import ConnectorInfo, ConnectorSide
from pipesync.v1.message_pb2 import Message
from pipesync.v1.pipeline_service_pb2 import (
    CheckPipelineRequest,
    DiscoverSourceRequest,
    ListPipelineConnectorsRequest,
    SetupPipelineRequest,
)
from pipesync.v1.progress_pb2 import ConnectionStatus
from pipesync_cli.app import open_client, synchronous
from pipesync_cli.config import ConnectorFlags
from pipesync_cli.output import echo, echo_json, echo_table, log_line, print_note, unreadable_line
from pipesync_cli.pipelines import PipelineId, Raw, SourceConfig, SourceType
from pipesync_cli.plain import enum_to_plain


class Side(StrEnum):
    """One of a pipeline's two connectors."""

    SOURCE = "source"
    DESTINATION = "destination"


class _Answer(Protocol):
    @property
    def message(self) -> Message: ...


AnswerT = TypeVar("AnswerT", bound=_Answer)

Only = Annotated[Side | None, typer.Option("--only", help="Act on this connector only.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for command in (connectors, discover, check, setup):
        app.command()(synchronous(command))


async def connectors(
    command: typer.Context,
    side: Annotated[Side | None, typer.Argument(help="Side to list; both by default.")] = None,
    raw: Raw = False,
) -> None:
    """List the available connectors and their settings.

    Required settings are marked with a star.
    """
    request = ListPipelineConnectorsRequest(side=side_number(side))
    async with open_client(command) as client:
        answer = await client.list_pipeline_connectors(request)
    if raw:
        for connector in answer.connectors:
            echo_json(connector)
        return
    echo_table(
        ["SIDE", "TYPE", "SETTINGS"],
        [
            [
                str(enum_to_plain(ConnectorSide.DESCRIPTOR, connector.side)),
                connector.type,
                _settings(connector),
            ]
            for connector in answer.connectors
        ],
    )


async def discover(
    command: typer.Context,
    pipeline_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="Pipeline whose source to list.")
    ] = None,
    source: SourceType = None,
    source_config: SourceConfig = None,
    raw: Raw = False,
) -> None:
    """List the streams of a source."""
    flags = ConnectorFlags(side="source", type=source, settings=source_config or [])
    if bool(pipeline_id) == flags.is_given():
        raise typer.BadParameter("give either a pipeline or a source.", param_hint="'discover'")
    request = DiscoverSourceRequest()
    if pipeline_id:
        request.pipeline_id = pipeline_id
    else:
        flags.apply(request.source)
    async with open_client(command) as client:
        for message in await messages_of(client.discover_source(request)):
            if message.HasField("catalog"):
                _echo_catalog(message.catalog, raw)


async def check(command: typer.Context, pipeline_id: PipelineId, only: Only = None) -> None:
    """Check a pipeline's connectors and streams.

    Connects to both sides, and reads from each stream. Unreadable streams are reported on a line
    each; syncs skip them.
    """
    request = CheckPipelineRequest(pipeline_id=pipeline_id, side=side_number(only))
    failed = False
    async with open_client(command) as client:
        for message in await messages_of(client.check_pipeline(request)):
            if not message.HasField("connection_status"):
                continue
            result = message.connection_status
            outcome = enum_to_plain(ConnectionStatus.Status.DESCRIPTOR, result.status)
            detail = f": {result.message}" if result.message else ""
            echo(f"{message.emitted_by} {outcome}{detail}")
            for unreadable in result.unreadable_streams:
                echo(f"{message.emitted_by} {unreadable_line(unreadable)}")
            for notice in result.notices:
                echo(f"{message.emitted_by} note: {notice}")
            failed = failed or result.status == ConnectionStatus.STATUS_FAILED
    if failed:
        raise typer.Exit(1)


async def setup(command: typer.Context, pipeline_id: PipelineId, only: Only = None) -> None:
    """Create a pipeline's tables and other resources.

    Safe to repeat.
    """
    request = SetupPipelineRequest(pipeline_id=pipeline_id, side=side_number(only))
    async with open_client(command) as client:
        await messages_of(client.setup_pipeline(request))
    echo(f"{pipeline_id} set up")


def side_number(side: Side | None) -> ConnectorSide.ValueType:
    """Return the contract's value of a side; None stands for both."""
    return ConnectorSide.Value(f"CONNECTOR_SIDE_{side.name if side else 'UNSPECIFIED'}")


async def messages_of(answers: AsyncGenerator[AnswerT, None]) -> list[Message]:
    """Return the messages of a short call, printing its logs as they arrive."""
    messages = []
    async with aclosing(answers):
        async for answer in answers:
            if answer.message.HasField("log"):
                print_note(log_line(answer.message))
            else:
                messages.append(answer.message)
    return messages


def _settings(connector: ConnectorInfo) -> str:
    schema = connector.spec.config_schema.fields
    required = {value.string_value for value in schema["required"].list_value.values}
    known = schema["properties"].struct_value.fields
    names = sorted(known, key=lambda name: (name not in required, name))
    return ", ".join(f"{name}*" if name in required else name for name in names)


def _echo_catalog(catalog: Catalog, raw: bool) -> None:
    if raw:
        for stream in catalog.streams:
            echo_json(stream)
        return
    echo_table(
        ["STREAM", "KEY", "FIELDS", "TIME RANGES", "NOTE"],
        [
            [
                stream.name,
                ", ".join(".".join(path.segments) for path in stream.primary_key),
                str(len(stream.json_schema.fields["properties"].struct_value.fields)),
                "yes" if stream.supports_time_range else "no",
                stream.metadata.fields["note"].string_value,
            ]
            for stream in catalog.streams
        ],
    )
