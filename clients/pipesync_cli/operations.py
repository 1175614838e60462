"""Commands that act on connectors: connectors, discover, check, setup, teardown."""

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
    TeardownPipelineRequest,
)
from pipesync.v1.progress_pb2 import ConnectionStatus
from pipesync_cli.app import awaited, open_client
from pipesync_cli.config import ConnectorFlags
from pipesync_cli.output import log_line, note, say, say_json, say_table, unreadable_line
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

Only = Annotated[Side | None, typer.Option("--only", help="Leave the other connector alone.")]


def register(app: typer.Typer) -> None:
    """Adds these commands to the program."""
    for command in (connectors, discover, check, setup, teardown):
        app.command()(awaited(command))


async def connectors(
    command: typer.Context,
    side: Annotated[Side | None, typer.Argument(help="None lists both sides.")] = None,
    raw: Raw = False,
) -> None:
    """List the connectors and their settings.

    A setting with a star is required.
    """
    request = ListPipelineConnectorsRequest(side=_number(side))
    async with open_client(command) as client:
        answer = await client.list_pipeline_connectors(request)
    if raw:
        for connector in answer.connectors:
            say_json(connector)
        return
    say_table(
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
        str | None, typer.Argument(metavar="ID", help="The pipeline whose source is asked.")
    ] = None,
    source: SourceType = None,
    source_config: SourceConfig = None,
    raw: Raw = False,
) -> None:
    """List the streams that a source offers."""
    flags = ConnectorFlags(side="source", type=source, settings=source_config or [])
    if bool(pipeline_id) == flags.is_given():
        raise typer.BadParameter("give a pipeline or a source.", param_hint="'discover'")
    request = DiscoverSourceRequest()
    if pipeline_id:
        request.pipeline_id = pipeline_id
    else:
        flags.apply(request.source)
    async with open_client(command) as client:
        for message in await _messages(client.discover_source(request)):
            if message.HasField("catalog"):
                _say_catalog(message.catalog, raw)


async def check(command: typer.Context, pipeline_id: PipelineId, only: Only = None) -> None:
    """Try to reach a pipeline's connectors, and to read each of its streams.

    A stream that cannot be read has a line of its own; the others are synced without it.
    """
    request = CheckPipelineRequest(id=pipeline_id, only=_number(only))
    failed = False
    async with open_client(command) as client:
        for message in await _messages(client.check_pipeline(request)):
            if not message.HasField("connection_status"):
                continue
            result = message.connection_status
            outcome = enum_to_plain(ConnectionStatus.Status.DESCRIPTOR, result.status)
            detail = f": {result.message}" if result.message else ""
            say(f"{message.emitted_by} {outcome}{detail}")
            for unreadable in result.unreadable_streams:
                say(f"{message.emitted_by} {unreadable_line(unreadable)}")
            for notice in result.notices:
                say(f"{message.emitted_by} note: {notice}")
            failed = failed or result.status == ConnectionStatus.STATUS_FAILED
    if failed:
        raise typer.Exit(1)


async def setup(command: typer.Context, pipeline_id: PipelineId, only: Only = None) -> None:
    """Make the tables and whatever else a pipeline needs.

    It is safe to repeat.
    """
    request = SetupPipelineRequest(id=pipeline_id, only=_number(only))
    async with open_client(command) as client:
        await _messages(client.setup_pipeline(request))
    say(f"{pipeline_id} set up")


async def teardown(command: typer.Context, pipeline_id: PipelineId, only: Only = None) -> None:
    """Remove what setup made, the data included."""
    request = TeardownPipelineRequest(id=pipeline_id, only=_number(only))
    async with open_client(command) as client:
        await _messages(client.teardown_pipeline(request))
    say(f"{pipeline_id} torn down")


def _number(side: Side | None) -> ConnectorSide.ValueType:
    return ConnectorSide.Value(f"CONNECTOR_SIDE_{side.name if side else 'UNSPECIFIED'}")


async def _messages(answers: AsyncGenerator[AnswerT, None]) -> list[Message]:
    """The messages of a short call; its logs are shown as they come."""
    messages = []
    async with aclosing(answers):
        async for answer in answers:
            if answer.message.HasField("log"):
                note(log_line(answer.message))
            else:
                messages.append(answer.message)
    return messages


def _settings(connector: ConnectorInfo) -> str:
    schema = connector.spec.config_schema.fields
    required = {value.string_value for value in schema["required"].list_value.values}
    known = schema["properties"].struct_value.fields
    names = sorted(known, key=lambda name: (name not in required, name))
    return ", ".join(f"{name}*" if name in required else name for name in names)


def _say_catalog(catalog: Catalog, raw: bool) -> None:
    if raw:
        for stream in catalog.streams:
            say_json(stream)
        return
    say_table(
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
