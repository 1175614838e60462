"""Conversion between RpcError and google.rpc.Status."""

from collections.abc import Iterator, Sequence
from typing import cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from pipesync_rpc.errors import ERROR_DOMAIN, FieldViolation, RpcError

# A status travels in HTTP trailers, which every hop limits; our channels and servers allow 64 KiB.
# A non-ASCII byte of the message takes three bytes there, plus four thirds in the encoded details.
_MESSAGE_BYTES = 8 * 1024
_VIOLATIONS_BYTES = 12 * 1024


def to_status(error: RpcError, request_id: str = "") -> status_pb2.Status:
    """Return the status that carries everything in an RpcError.

    Args:
        error: Exception of a handler.
        request_id: Id of the request; empty if there is none.
    """
    details: list[Message] = [
        error_details_pb2.ErrorInfo(
            reason=error.reason, domain=ERROR_DOMAIN, metadata=error.metadata
        )
    ]
    if error.field_violations:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=violation.field, description=violation.description
                    )
                    for violation in _fitting(error.field_violations)
                ]
            )
        )
    if error.retry_delay is not None:
        delay = Duration()
        delay.FromTimedelta(error.retry_delay)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if request_id:
        details.append(error_details_pb2.RequestInfo(request_id=request_id))
    return status_pb2.Status(
        code=error.code,
        message=_shortened(error.message),
        details=[_packed(detail) for detail in details],
    )


def from_grpc(error: grpc.aio.AioRpcError, target: str = "") -> RpcError:
    """Return the exception that the server of a failed call raised.

    Args:
        error: Exception of a stub.
        target: Server that was called, for the message when it is unreachable.
    """
    try:
        # Not a call, but it has the three methods that from_call uses.
        status = rpc_status.from_call(cast("grpc.Call", error))
    except ValueError:  # The details contradict the status: an intermediary replaced it.
        status = None
    if status is None:
        return _without_details(error, target)
    return _from_status(status)


def _from_status(status: status_pb2.Status) -> RpcError:
    info = error_details_pb2.ErrorInfo(reason=code_pb2.Code.Name(status.code))
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    request = error_details_pb2.RequestInfo()
    for packed in status.details:
        for detail in (info, bad_request, retry, request):
            packed.Unpack(detail)
    return RpcError(
        status.message,
        code=status.code,
        reason=info.reason,
        metadata=info.metadata,
        field_violations=[
            FieldViolation(violation.field, violation.description)
            for violation in bad_request.field_violations
        ],
        retry_delay=retry.retry_delay.ToTimedelta() if retry.HasField("retry_delay") else None,
        request_id=request.request_id,
    )


def _without_details(error: grpc.aio.AioRpcError, target: str) -> RpcError:
    code, details = error.code(), error.details() or ""
    server = f"the server at {target}" if target else "the server"
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            # gRPC concatenates the causes; the last one is the one to act on.
            cause = details.rpartition(": ")[2]
            message = f"{server} cannot be reached: {cause[:1].lower()}{cause[1:]}"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            message = f"{server} did not answer in time"
        case grpc.StatusCode.CANCELLED:
            message = f"the call to {server} was cancelled"
        case grpc.StatusCode.UNIMPLEMENTED:
            message = f"{server} does not implement this method: {details}"
        case _:
            message = f"{server} answered {code.name}: {details}"
    return RpcError(message, code=code.value[0], reason=code.name)


def _packed(detail: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


def _shortened(message: str) -> str:
    encoded = message.encode()
    if len(encoded) <= _MESSAGE_BYTES:
        return message
    return encoded[: _MESSAGE_BYTES - len("…".encode())].decode(errors="ignore") + "…"


def _fitting(violations: Sequence[FieldViolation]) -> Iterator[FieldViolation]:
    """Yield the first violations, up to the size that a status has room for."""
    size = 0
    for violation in violations:
        size += len(violation.field.encode()) + len(violation.description.encode())
        if size > _VIOLATIONS_BYTES:
            return
        yield violation
