"""Errors of the engine, by the remedy that the caller has."""

from google.rpc import code_pb2

from pipesync_rpc.errors import FieldViolation, RpcError
from pipesync_rpc.errors import InvalidRequest as InvalidRequest
from pipesync_rpc.errors import Violations as Violations
from pipesync_rpc.reasons import Reason


class EngineError(RpcError):
    """Base class of the engine's errors."""


class UnknownConnector(EngineError):
    """The connector is not installed; name another one, or install it."""

    default_code = code_pb2.NOT_FOUND
    default_reason = Reason.UNKNOWN_CONNECTOR

    def at(self, field: str) -> "UnknownConnector":
        """Return the error with the field of the request that holds the connector's type."""
        return UnknownConnector(
            self.message,
            metadata=self.metadata,
            field_violations=[FieldViolation(field, self.message)],
        )


class EmptyCatalog(EngineError):
    """The source's catalog has no streams."""

    default_code = code_pb2.FAILED_PRECONDITION
    default_reason = Reason.EMPTY_CATALOG


class InputsNotSupported(EngineError):
    """The source accepts no pushed inputs."""

    default_code = code_pb2.UNIMPLEMENTED
    default_reason = Reason.INPUTS_NOT_SUPPORTED


class InputsUnverified(EngineError):
    """The sender of a pushed input could not be verified."""

    default_code = code_pb2.UNAUTHENTICATED
    default_reason = Reason.INPUTS_UNVERIFIED


class SettingMissing(EngineError):
    """The connector's configuration lacks an optional setting that this request needs.

    Attributes:
        setting: Field of the configuration, e.g. ``webhook_secret``.
        description: Purpose of the setting.
    """

    default_code = code_pb2.FAILED_PRECONDITION
    default_reason = Reason.SETTING_MISSING

    def __init__(self, setting: str, description: str) -> None:
        """Name the missing setting and its purpose."""
        super().__init__(f"{setting}: {description}")
        self.setting = setting
        self.description = description

    def under(self, path: str) -> "SettingMissing":
        """Return the error with the path of the configuration in the request, ``path``."""
        named = SettingMissing(f"{path}.{self.setting}", self.description)
        named.field_violations = (FieldViolation(named.setting, named.description),)
        return named


class ReconcileNotSupported(EngineError):
    """The source or destination does not support reconciling, or there is no destination."""

    default_code = code_pb2.FAILED_PRECONDITION
    default_reason = Reason.RECONCILE_NOT_SUPPORTED


class RejectedNotKept(EngineError):
    """The destination keeps no rejected records to retry."""

    default_code = code_pb2.FAILED_PRECONDITION
    default_reason = Reason.REJECTED_NOT_KEPT


class ConnectorError(EngineError):
    """A connector cannot continue.

    Users see the message, so it must not contain a secret. Outside a sync, it becomes the status of
    the call. Within a sync, it becomes the ``failure_message`` of an eof with status FAILED.
    """

    default_code = code_pb2.FAILED_PRECONDITION
    default_reason = Reason.CONNECTOR_FAILED


class ConnectionFailed(ConnectorError):
    """The connector's external system is unreachable, or refuses access.

    The remedy is in the configuration or the network. Within a sync, the error becomes a
    ``connection_status`` of FAILED.
    """

    default_reason = Reason.CONNECTION_FAILED


class CheckpointsMoved(ConnectorError):
    """During a write, another request took over the recorded checkpoints, or they were removed.

    The transaction that detects it commits nothing. The sync ends with ``has_more``; the next
    request compares its state again.
    """
