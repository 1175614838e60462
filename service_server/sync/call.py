"""One call of the engine, whose results are recorded as its messages pass."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, aclosing, contextmanager
from dataclasses import dataclass, field

from pipesync.v1.catalog_pb2 import PipelineConfig
from pipesync.v1.engine_service_pb2 import SyncOptions
from pipesync.v1.message_pb2 import Message, SourceInput
from pipesync.v1.state_pb2 import Eof
from pipesync_rpc.errors import RpcError
from pipesync_rpc.reasons import Reason
from service_server.configuration.connectors import Connectors
from service_server.engine import FIELDS_OF_A_PIPELINE, Engine, FieldNames
from service_server.leases.in_flight import Send
from service_server.sync.graceful_shutdown import GracefulShutdown, ShutdownRequested
from service_server.sync.records.record import Record
from service_server.sync.records.recorder import Recorder


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRequest:
    """A request to the engine.

    Attributes:
        config: The pipeline's configuration with its secrets.
        options: The options, with the state.
        fields: The caller's name of each of the engine's fields.
        inputs: The events to apply; empty to read from the source.
        timeout: Time limit of ``finish`` in seconds; None for none.
    """

    config: PipelineConfig = field(repr=False)
    options: SyncOptions
    fields: FieldNames
    inputs: Sequence[SourceInput]
    timeout: float | None


class SyncCall:
    """One call of the engine: ``finish`` makes it at once, ``relay`` makes it as a stream.

    Attributes:
        request: The request.
        recorder: Stores the results.
        end: The message with the eof; None before.
    """

    def __init__(
        self,
        request: CallRequest,
        record: Record,
        recorder: Recorder,
        *,
        engine: Engine,
        connectors: Connectors,
        shutdown: GracefulShutdown,
        counted: Callable[[], AbstractContextManager[object]],
    ) -> None:
        """Initialize without calling.

        Args:
            request: The request.
            record: The record of the call.
            recorder: Stores the record.
            engine: The engine to call.
            connectors: The specs of the connectors, which say which fields are secret.
            shutdown: Ends a streamed call early.
            counted: Returns a context in which the call counts as running.
        """
        self.request = request
        self.recorder = recorder
        self.end: Message | None = None
        self._record = record
        self._engine = engine
        self._connectors = connectors
        self._shutdown = shutdown
        self._counted = counted

    async def finish(self) -> Eof:
        """Make the call, and record its eof, which the caller has to store.

        A shutdown does not end it, because its state is unknown before.

        Raises:
            RpcError: The engine failed, which is recorded.
        """
        asked = self.request
        with self._counted(), self._recording_failure():
            eof = await self._engine.sync_batch(
                asked.config, asked.options, asked.fields, asked.inputs, timeout=asked.timeout
            )
        self._take(Message(eof=eof))
        return eof

    async def relay(self, send: Send) -> None:
        """Make the call, and store its results while its messages pass, and at its end.

        Every message but the last is sent, without secrets: ``end`` is for the caller to send once
        another call may begin. After a shutdown it is an eof of the latest checkpoint.

        Raises:
            RpcError: The engine failed, which is stored.
            LeaseLost: Another process may sync the pipeline by now.
        """
        asked = self.request
        messages = self._engine.sync(asked.config, asked.options, asked.fields, asked.inputs)
        async with self.recorder.storing():
            try:
                with self._counted(), self._recording_failure():
                    async with aclosing(messages), self._shutdown.cancel_on_shutdown():
                        async for message in messages:
                            self._take(message)
                            if not message.HasField("eof"):
                                await send(await self._connectors.masked(message, asked.config))
            except ShutdownRequested:
                self.end = self.end or self._end_for_now()

    def _take(self, message: Message) -> None:
        self.recorder.take(message)
        if message.HasField("eof"):
            self.end = message

    def _end_for_now(self) -> Message:
        message = Message(emitted_by="service", eof=self._record.eof_for_now())
        message.ts.GetCurrentTime()
        return message

    @contextmanager
    def _recording_failure(self) -> Iterator[None]:
        try:
            yield
        except RpcError as error:
            if not _is_refusal(error):
                self._record.fail(error.message)
            raise


def _is_refusal(error: RpcError) -> bool:
    """Return whether the engine rejected the request, so that no run began."""
    stored = FIELDS_OF_A_PIPELINE.values()
    return error.reason == Reason.RECONCILE_NOT_SUPPORTED or any(
        not violation.field.startswith(tuple(stored)) for violation in error.field_violations
    )
