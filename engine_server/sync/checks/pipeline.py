"""Checks of the pipeline in a request; each gathers its violations for one answer."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from engine_server.connectors.protocols import SelectedStream
from engine_server.connectors.registry import ConnectorRegistry
from engine_server.errors import InvalidRequest, Violations
from engine_server.sync.checks.inputs import check_inputs
from engine_server.sync.checks.resolution import (
    ResolvedDestination,
    ResolvedSource,
    resolve_destination,
    resolve_source,
    resolve_streams,
)
from engine_server.sync.checks.selection import select_streams
from engine_server.sync.checks.write_requests import catalog_faults
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig
from pipesync.v1.engine_service_pb2 import PipelineWriteRequest
from pipesync.v1.message_pb2 import SourceInput
from pipesync_server.request_check import check_request

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Checked(Generic[T]):
    """Result of a check, whose violations are gathered with those of other checks.

    Attributes:
        result: The result; None if the check found a violation.
    """

    result: T | None

    @property
    def value(self) -> T:
        """The result, once ``Violations.raise_if_any`` has passed."""
        if self.result is None:
            raise LookupError("the check found a violation")
        return self.result


def check_source_config(
    registry: ConnectorRegistry, connector: Connector, path: str, violations: Violations
) -> Checked[ResolvedSource]:
    """Resolve a source, without its streams; ``path`` is its path in the request."""
    source = None
    with violations.collect():
        violations.skip_if_invalid(path)
        source = resolve_source(registry, connector, path)
    return Checked(source)


async def check_source(
    registry: ConnectorRegistry,
    pipeline: PipelineConfig,
    violations: Violations,
    inputs: Sequence[SourceInput] = (),
) -> Checked[tuple[ResolvedSource, list[SelectedStream]]]:
    """Resolve the source and the selected streams, and check the inputs pushed to it."""
    source = check_source_config(registry, pipeline.source, "pipeline.source", violations).result
    if source is None:
        return Checked(None)
    streams = None
    with violations.collect():
        violations.skip_if_invalid("pipeline.streams", exact=True)
        streams = await resolve_streams(source, pipeline.streams)
    with violations.collect():
        violations.skip_if_invalid("inputs")
        await check_inputs(source, inputs)
    return Checked(None if streams is None else (source, streams))


def check_destination(
    registry: ConnectorRegistry, pipeline: PipelineConfig, violations: Violations
) -> Checked[ResolvedDestination]:
    """Resolve the destination."""
    destination = None
    with violations.collect():
        violations.skip_if_invalid("pipeline.destination")
        destination = resolve_destination(registry, pipeline.destination, "pipeline.destination")
    return Checked(destination)


async def check_write_streams(
    registry: ConnectorRegistry,
    pipeline: PipelineConfig,
    requests: AsyncIterator[PipelineWriteRequest],
    violations: Violations,
) -> Checked[list[SelectedStream]]:
    """Return the streams of a write, from the source or from a catalog in the requests."""
    if pipeline.source.type:
        found = (await check_source(registry, pipeline, violations)).result
        return Checked(None if found is None else found[1])
    streams = None
    with violations.collect():
        streams = await _streams_of_catalog(pipeline, requests, violations)
    return Checked(streams)


async def _streams_of_catalog(
    pipeline: PipelineConfig,
    requests: AsyncIterator[PipelineWriteRequest],
    violations: Violations,
) -> list[SelectedStream] | None:
    second = await anext(requests, PipelineWriteRequest())
    if not second.message.HasField("catalog"):
        violations.add(
            "message.catalog", "must be the first message of a pipeline without a source"
        )
        return None
    catalog = second.message.catalog
    faults = await check_request(second) or await catalog_faults(catalog, "message.catalog")
    if faults:
        raise InvalidRequest(faults)
    violations.skip_if_invalid("pipeline.streams", exact=True)
    return select_streams(catalog.streams, pipeline.streams, "pipeline.streams")
