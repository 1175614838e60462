"""The engine as the service sees it: its messages, and its errors in the service's own terms."""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Protocol, TypeAlias

from google.rpc import code_pb2

from pipesync.v1 import engine_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, Spec
from pipesync.v1.message_pb2 import Message, SourceInput
from pipesync.v1.state_pb2 import Eof
from pipesync_client import EngineClient
from pipesync_rpc.errors import FieldViolation, RpcError
from service_server.errors import EngineUnavailable

Side: TypeAlias = pb.ConnectorSide.ValueType
Messages = AsyncGenerator[Message, None]
# What the engine calls a field, and what the service's caller knows the same field as.
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
    """Calls the engine. Whatever it cannot do is raised as an RpcError that the caller may read."""

    def __init__(self, client: EngineClient, address: str) -> None:
        """Takes an open client, and where it leads, for people to read."""
        self._client = client
        self._address = address

    async def connectors(self, side: Side) -> list[pb.ConnectorInfo]:
        """The connectors of one side, or of both, with their specs."""
        with self._explained({}):
            answer = await self._client.list_connectors(pb.ListConnectorsRequest(side=side))
        return list(answer.connectors)

    async def spec(self, side: Side, connector_type: str) -> Spec:
        """One connector's spec.

        Raises:
            RpcError: NOT_FOUND when the engine does not have it.
        """
        with self._explained({}):
            answer = await self._client.get_connector(
                pb.GetConnectorRequest(side=side, type=connector_type)
            )
        return answer.connector.spec

    def discover(self, source: Connector, field: str) -> Messages:
        """The source's catalog, and logs; ``field`` is where it stands in the request."""
        request = pb.SourceDiscoverRequest(source=source)
        return self._messages(self._client.source_discover(request), {"source": field})

    def check(self, pipeline: PipelineConfig, only: Side) -> Messages:
        """The connection_status of each side, and logs."""
        request = pb.PipelineCheckRequest(pipeline=pipeline, only=only)
        return self._messages(self._client.pipeline_check(request), FIELDS_OF_A_PIPELINE)

    async def validate(self, pipeline: PipelineConfig) -> None:
        """Checks a whole configuration without reaching for anything.

        Raises:
            RpcError: names every bad field of both connectors, and every stream that is not there.
        """
        request = pb.PipelineCheckRequest(pipeline=pipeline, validate_only=True)
        with self._explained(FIELDS_OF_A_PIPELINE):
            async for _ in self._client.pipeline_check(request):
                pass

    def setup(self, pipeline: PipelineConfig, only: Side) -> Messages:
        """Makes what a sync needs outside: control messages, and logs."""
        request = pb.PipelineSetupRequest(pipeline=pipeline, only=only)
        return self._messages(self._client.pipeline_setup(request), FIELDS_OF_A_PIPELINE)

    def teardown(self, pipeline: PipelineConfig, only: Side) -> Messages:
        """Removes what setup made: logs."""
        request = pb.PipelineTeardownRequest(pipeline=pipeline, only=only)
        return self._messages(self._client.pipeline_teardown(request), FIELDS_OF_A_PIPELINE)

    def sync(
        self,
        pipeline: PipelineConfig,
        options: pb.SyncOptions,
        fields: FieldNames,
        inputs: Sequence[SourceInput] = (),
    ) -> Messages:
        """One sync, message by message; of ``inputs`` when there are any."""
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
        """One sync, and how it ended; of ``inputs`` when there are any.

        After ``timeout`` seconds it is over, whatever becomes of this process; the engine ends it
        by itself a little before.
        """
        request = pb.PipelineSyncBatchRequest(pipeline=pipeline, options=options, inputs=inputs)
        with self._explained(fields):
            answer = await self._client.pipeline_sync_batch(request, timeout=timeout)
        return answer.eof

    async def retry_rejected(self, pipeline: PipelineConfig) -> pb.PipelineRetryRejectedResponse:
        """Writes what the destination rejected once more, and what came of it."""
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
    message = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
    return RpcError(
        message or error.message,
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
