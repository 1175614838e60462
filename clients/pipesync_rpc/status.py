"""An RpcError as a google.rpc.Status, and back."""

from typing import cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from pipesync_rpc.errors import ERROR_DOMAIN, FieldViolation, RpcError

# A status travels in HTTP trailers, which every hop bounds; channels and servers here allow 64 KiB.
_MESSAGE_LIMIT = 4096
_VIOLATIONS_LIMIT = 100


def to_status(error: RpcError, request_id: str = "") -> status_pb2.Status:
    """The status that carries everything an RpcError says.

    Args:
        error: What a handler raised.
        request_id: The request that it answers; empty when there is none.
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
                    for violation in error.field_violations[:_VIOLATIONS_LIMIT]
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
    """What a failed call says, as the exception that its server raised.

    Args:
        error: What a stub raised.
        target: The server that was called, to be named when it could not be reached.
    """
    try:
        # No call, but it has the three methods of one that are asked for.
        status = rpc_status.from_call(cast("grpc.Call", error))
    except ValueError:  # The details contradict the status: somebody in between replaced it.
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
    code, said = error.code(), error.details() or ""
    server = f"the server at {target}" if target else "the server"
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            # gRPC strings the causes together; the last one is what a person can act on.
            cause = said.rpartition(": ")[2]
            message = f"{server} cannot be reached: {cause[:1].lower()}{cause[1:]}"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            message = f"{server} did not answer in time"
        case grpc.StatusCode.CANCELLED:
            message = f"the call to {server} was cancelled"
        case grpc.StatusCode.UNIMPLEMENTED:
            message = f"{server} does not know this method: {said}"
        case _:
            message = f"{server} answered {code.name}: {said}"
    return RpcError(message, code=code.value[0], reason=code.name)


def _packed(detail: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


def _shortened(message: str) -> str:
    return message if len(message) <= _MESSAGE_LIMIT else message[: _MESSAGE_LIMIT - 1] + "…"
