"""Everything the engine answers other than OK, cut by what the caller can do about it."""

from collections.abc import Iterator
from contextlib import contextmanager

from google.rpc import code_pb2

from pipesync_rpc.errors import FieldViolation, RpcError
from pipesync_rpc.errors import InvalidRequest as InvalidRequest
from pipesync_rpc.reasons import Reason


class EngineError(RpcError):
    """The root of the engine's own errors."""


class Violations:
    """Gathers the bad fields of a request, so that all of them are reported at once."""

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []

    def add(self, field: str, description: str) -> None:
        """Notes one bad field."""
        self._found.append(FieldViolation(field, description))

    @contextmanager
    def gather(self) -> Iterator[None]:
        """Notes the bad fields that a check inside the block raises, and goes on after the block.

        What the block was to assign is only there once ``raise_if_any`` has passed.
        """
        try:
            yield
        except InvalidRequest as error:
            self._found.extend(error.field_violations)

    def raise_if_any(self) -> None:
        """Ends the request when a field is bad.

        Raises:
            InvalidRequest: names all of them.
        """
        if self._found:
            raise InvalidRequest(self._found)


class UnknownConnector(EngineError):
    """The caller must name another connector, or install this one."""

    default_code = code_pb2.NOT_FOUND
    default_reason = Reason.UNKNOWN_CONNECTOR


class EmptyCatalog(EngineError):
    """The source offers nothing to sync."""

    default_code = code_pb2.FAILED_PRECONDITION
    default_reason = Reason.EMPTY_CATALOG


class InputsNotSupported(EngineError):
    """The source takes no pushed inputs."""

    default_code = code_pb2.UNIMPLEMENTED
    default_reason = Reason.INPUTS_NOT_SUPPORTED


class InputsUnverified(EngineError):
    """Something that was pushed does not show to be from whom it should be."""

    default_code = code_pb2.UNAUTHENTICATED
    default_reason = Reason.INPUTS_UNVERIFIED


class SettingMissing(EngineError):
    """The connector's configuration lacks what this request needs, and others do not.

    Attributes:
        setting: The field of the configuration, e.g. ``webhook_secret``.
    """

    default_code = code_pb2.FAILED_PRECONDITION
    default_reason = Reason.SETTING_MISSING

    def __init__(self, setting: str, description: str) -> None:
        """``description`` says what it is needed for."""
        super().__init__(f"{setting}: {description}")
        self.setting = setting
        self.description = description

    def under(self, path: str) -> "SettingMissing":
        """The same, named by where the configuration stands in the request."""
        named = SettingMissing(f"{path}.{self.setting}", self.description)
        named.field_violations = (FieldViolation(named.setting, named.description),)
        return named


class ReconcileNotSupported(EngineError):
    """A connector cannot tell what it holds, or compare that with what it reads."""

    default_code = code_pb2.FAILED_PRECONDITION
    default_reason = Reason.RECONCILE_NOT_SUPPORTED


class RejectedNotKept(EngineError):
    """A destination keeps no rejected records that could be written once more."""

    default_code = code_pb2.FAILED_PRECONDITION
    default_reason = Reason.REJECTED_NOT_KEPT


class ConnectorError(EngineError):
    """What a connector raises when it cannot go on.

    Its message is shown to people, so it holds no secret. Outside a sync it becomes the status of
    the call; inside one the sync ends with an Eof whose status is FAILED and whose failure_message
    is this message.
    """

    default_code = code_pb2.FAILED_PRECONDITION
    default_reason = Reason.CONNECTOR_FAILED


class ConnectionFailed(ConnectorError):
    """The connector's far side cannot be reached, or refuses us.

    The remedy is in the configuration or the network. Inside a sync it becomes a connection_status
    of FAILED.
    """

    default_reason = Reason.CONNECTION_FAILED


class CheckpointsMoved(ConnectorError):
    """Another request took the recorded checkpoints over, or they were removed, during a write.

    Nothing of the transaction that found out is committed. The sync ends with ``has_more``; the
    next request compares anew.
    """
