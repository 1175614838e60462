"""Adapter of the engine's client that translates its errors into the service's terms."""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Protocol, TypeAlias

from google.rpc import code_pb2

from pipesync.v1 import engine_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, Spec
from pipesync.v1.message_pb2 import Message, SourceInput
from pipesync.v1.state_pb2 import Eof
from pipesync_client import EngineClient
from pipesync_rpc.errors import FieldViolation, RpcError, describe
from pipesync_rpc.reasons import Reason
from service_server.errors import EngineUnavailable

Side: TypeAlias = pb.ConnectorSide.ValueType
Messages = AsyncGenerator[Message, None]
# The engine's name of each field, with the name of the field in the caller's request.
FieldNames = Mapping[str, str]

FIELDS_OF_A_PIPELINE: FieldNames = {
    "pipeline.source": "pipeline.config.source",
    "pipeline.destination": "pipeline.config.destination",
    "pipeline.streams": "pipeline.config.streams",
}


class _Answer(Protocol):
    @property
    def message(self) -> Message: ...


class Engine:
    """Calls the engine; every failure is raised as an RpcError that the caller may see."""

    def __init__(self, client: EngineClient, address: str) -> None:
        """Initialize with an open client and its address, which error messages show."""
        self._client = client
        self._address = address

    async def connectors(self, side: Side) -> list[pb.ConnectorInfo]:
        """Return the connectors of one side, or of both, with their specs."""
        with self._explained({}):
            answer = await self._client.list_connectors(pb.ListConnectorsRequest(side=side))
        return list(answer.connectors)

    async def spec(self, side: Side, connector_type: str, field: str = "") -> Spec:
        """Return the spec of one connector.

        Args:
            side: The connector's side.
            connector_type: The connector's type.
            field: The path of the connector in the request; empty if it is in none.

        Raises:
            RpcError: NOT_FOUND if the engine does not have the connector.
        """
        try:
            with self._explained({"type": f"{field}.type"} if field else {}):
                answer = await self._client.get_connector(
                    pb.GetConnectorRequest(side=side, type=connector_type)
                )
        except RpcError as error:
            if field and error.reason == Reason.UNKNOWN_CONNECTOR and not error.field_violations:
                # Engines of earlier releases do not name the field.
                error.field_violations = (FieldViolation(f"{field}.type", error.message),)
            raise
        return answer.connector.spec

    def discover(self, source: Connector, field: str) -> Messages:
        """Yield the source's catalog, and logs; ``field`` is the source's path in the request."""
        request = pb.SourceDiscoverRequest(source=source)
        return self._messages(self._client.source_discover(request), {"source": field})

    def check(self, pipeline: PipelineConfig, only: Side) -> Messages:
        """Yield the connection_status of each side, and logs."""
        request = pb.PipelineCheckRequest(pipeline=pipeline, side=only)
        return self._messages(self._client.pipeline_check(request), FIELDS_OF_A_PIPELINE)

    async def validate(
        self, pipeline: PipelineConfig, fields: FieldNames = FIELDS_OF_A_PIPELINE
    ) -> None:
        """Validate a whole configuration without a connection to its source or destination.

        Raises:
            RpcError: The configuration is invalid; the error names every invalid field of both
                connectors, and every unknown stream.
        """
        request = pb.PipelineCheckRequest(pipeline=pipeline, validate_only=True)
        with self._explained(fields):
            async for _ in self._client.pipeline_check(request):
                pass

    def setup(self, pipeline: PipelineConfig, only: Side) -> Messages:
        """Set the pipeline up, and yield control messages and logs."""
        request = pb.PipelineSetupRequest(pipeline=pipeline, side=only)
        return self._messages(self._client.pipeline_setup(request), FIELDS_OF_A_PIPELINE)

    def teardown(self, pipeline: PipelineConfig, only: Side) -> Messages:
        """Tear the pipeline down, and yield logs."""
        request = pb.PipelineTeardownRequest(pipeline=pipeline, side=only)
        return self._messages(self._client.pipeline_teardown(request), FIELDS_OF_A_PIPELINE)

    def plan_teardown(self, pipeline: PipelineConfig, only: Side) -> Messages:
        """Yield the planned removals of a teardown, and logs."""
        request = pb.PipelinePlanTeardownRequest(pipeline=pipeline, side=only)
        return self._messages(self._client.pipeline_plan_teardown(request), FIELDS_OF_A_PIPELINE)

    def sync(
        self,
        pipeline: PipelineConfig,
        options: pb.SyncOptions,
        fields: FieldNames,
        inputs: Sequence[SourceInput] = (),
    ) -> Messages:
        """Run one sync, of ``inputs`` if there are any, and yield its messages."""
        request = pb.PipelineSyncRequest(pipeline=pipeline, options=options, inputs=inputs)
        return self._messages(self._client.pipeline_sync(request), fields)

    async def sync_batch(
        self,
        pipeline: PipelineConfig,
        options: pb.SyncOptions,
        fields: FieldNames,
        inputs: Sequence[SourceInput] = (),
        *,
        timeout: float | None = None,
    ) -> Eof:
        """Run one sync, of ``inputs`` if there are any, and return its eof.

        The sync ends within ``timeout`` seconds even if this process dies: the engine ends it
        shortly before.
        """
        request = pb.PipelineSyncBatchRequest(pipeline=pipeline, options=options, inputs=inputs)
        with self._explained(fields):
            answer = await self._client.pipeline_sync_batch(request, timeout=timeout)
        return answer.eof

    async def retry_rejected(self, pipeline: PipelineConfig) -> pb.PipelineRetryRejectedResponse:
        """Write the rejected records again, and return the numbers of records."""
        request = pb.PipelineRetryRejectedRequest(pipeline=pipeline)
        with self._explained(FIELDS_OF_A_PIPELINE):
            return await self._client.pipeline_retry_rejected(request)

    async def _messages(
        self, answers: AsyncGenerator[_Answer, None], fields: FieldNames
    ) -> Messages:
        async with aclosing(answers):
            with self._explained(fields):
                async for answer in answers:
                    yield answer.message

    @contextmanager
    def _explained(self, fields: FieldNames) -> Iterator[None]:
        try:
            yield
        except RpcError as error:
            if error.reason == "UNAVAILABLE":
                raise EngineUnavailable(
                    f"the engine at {self._address} cannot be reached, or went away"
                ) from error
            if error.reason == Reason.TOO_MANY_CALLS:
                # The open calls are this service's and not the caller's, so the error differs.
                raise EngineUnavailable(
                    f"the engine at {self._address} has as many calls open as it takes"
                ) from error
            if error.code == code_pb2.CANCELLED:
                raise EngineUnavailable(
                    f"the engine at {self._address} is stopping and cut the call"
                ) from error
            raise _in_terms_of_the_service(error, fields) from error


def _in_terms_of_the_service(error: RpcError, fields: FieldNames) -> RpcError:
    violations = [
        FieldViolation(_renamed(violation.field, fields), violation.description)
        for violation in error.field_violations
    ]
    return RpcError(
        describe(violations) or error.message,
        code=error.code,
        reason=error.reason,
        metadata=error.metadata,
        field_violations=violations,
        retry_delay=error.retry_delay,
    )


def _renamed(field: str, fields: FieldNames) -> str:
    for theirs, ours in fields.items():
        rest = field.removeprefix(theirs)
        if rest != field and (not rest or rest[0] in ".["):
            return ours + rest
    return field
