"""Calls: any method of both servers, with any messages and metadata."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import message_factory, text_format
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tests.fuzz.ground import METHODS, Ground
from tests.fuzz.inflation import inflate
from tests.fuzz.placeholders import sign
from tests.leaks import leaks

# Seconds that a call may take; those of a second try, as the machine may be busy.
DEADLINES = (6.0, 40.0)
# Seconds after which syncs end, by a limit in their request.
_MOST_SYNC = 1.0
_MOST_MESSAGE = 8 * 1024
_MOST_TRAILERS = 64 * 1024
# Answers of one call that are searched for secrets.
_MOST_SEARCHED = 200
_READING = ("Get", "List", "Watch", "Check", "Discover")
# The caller's own library reports this for a call that was answered while it sent.
_OF_THE_CALLER = ("Error from Core", "error from Core", "RST_STREAM", "Stream removed")
_NO_FIELD = ("UNDECODABLE_REQUEST",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of a call.

    Attributes:
        code: Its status.
        faults: Faults of the answer.
    """

    code: grpc.StatusCode
    faults: Sequence[str]


def attempt_of(method: str, *messages: Message, **more: Any) -> dict[str, Any]:
    """Return an attempt to call a method with messages."""
    return {"method": method, "requests": [as_stored(one) for one in messages], **more}


def as_stored(message: Message) -> dict[str, str]:
    """Return a message as a corpus stores it: as text where that preserves all of it."""
    text = text_format.MessageToString(message)
    try:
        again = text_format.Parse(text, type(message)())
        if again.SerializeToString(deterministic=True) == message.SerializeToString(
            deterministic=True
        ):
            return {"text": text}
    except text_format.ParseError:
        pass
    return {"bytes": message.SerializeToString().decode("latin-1")}


def run(ground: Ground, attempt: Mapping[str, Any], deadline: float) -> Outcome:
    """Make the call and return its outcome."""
    method = attempt["method"]
    requests = [_sent(ground, method, one, attempt) for one in attempt["requests"]]
    descriptor = METHODS[method]
    channel = ground.channels[descriptor.containing_service.full_name]
    call: Any = channel.stream_stream(method)
    answers: Any = call(
        iter(requests),
        timeout=deadline,
        metadata=[tuple(one) for one in attempt.get("metadata", ())],
    )
    faults: list[str] = []
    code = grpc.StatusCode.OK
    try:
        for number, answer in enumerate(answers):
            if number < _MOST_SEARCHED and not _is_for_the_service(descriptor, answer):
                leaks.search(f"an answer of {method}", answer)
            if descriptor.name.startswith("Watch"):
                answers.cancel()
                break
    except grpc.RpcError as error:
        code = error.code()
        faults = [*faults_of(error, descriptor)]
    finally:
        answers.cancel()
    if descriptor.containing_service.name == "PipelineService" and not descriptor.name.startswith(
        _READING
    ):
        ground.restore()
    return Outcome(code=code, faults=faults)


def _sent(
    ground: Ground, method: str, stored: Mapping[str, str], attempt: Mapping[str, Any]
) -> bytes:
    if "bytes" in stored:
        sent = ground.actual.bytes(stored["bytes"].encode("latin-1"))
        if "inflate" not in attempt:
            return edited(sent, attempt.get("edits", ()))
    message = message_factory.GetMessageClass(METHODS[method].input_type)()
    if "bytes" in stored:
        message.ParseFromString(stored["bytes"].encode("latin-1"))
    else:
        text_format.Parse(stored["text"], message)
    if "inflate" in attempt:
        inflate(message, *attempt["inflate"])
    bound(message)
    sign(message)
    return edited(ground.prepare(message), attempt.get("edits", ()))


def bound(request: Any) -> None:
    """Limit a long sync to a short time; a limit that is invalid stays."""
    fields = request.DESCRIPTOR.fields_by_name
    limited = request
    if "options" in fields:
        limited = request.options
    elif "time_limit" not in fields:
        return
    limit = limited.time_limit
    seconds = limit.seconds + limit.nanos / 1e9
    is_good = 0 <= limit.nanos < 10**9 and 0 <= limit.seconds < 10**11
    if is_good and (seconds == 0 or seconds > _MOST_SYNC):
        limit.seconds, limit.nanos = 0, 700_000_000


def edited(sent: bytes, edits: Sequence[Sequence[Any]]) -> bytes:
    """Return the bytes after some damage."""
    for kind, first, second in edits:
        if kind == "insert":
            place = first % (len(sent) + 1)
            sent = sent[:place] + second.encode("latin-1") + sent[place:]
            continue
        if not sent:
            break
        place = first % len(sent)
        match kind:
            case "cut":
                sent = sent[:place]
            case "drop":
                sent = sent[:place] + sent[place + 1 + second % 20 :]
            case "twice":
                sent = sent[:place] + sent[place : place + 1 + second % 200] * 2 + sent[place:]
            case _:
                sent = sent[:place] + bytes([second % 256]) + sent[place + 1 :]
    return sent


def faults_of(error: Any, descriptor: Any) -> Iterator[str]:
    """Yield the faults of an answer that is an error."""
    code, details = error.code(), error.details() or ""
    leaks.search(f"an error of {descriptor.name}", details)
    if code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN) and not any(
        text in details for text in _OF_THE_CALLER
    ):
        yield f"{code.name}: {details[:500]}"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and not error.trailing_metadata():
        yield "it does not end"
    if len(details.encode()) > _MOST_MESSAGE:
        yield f"a message of {len(details)} characters"
    trailers = error.trailing_metadata() or ()
    size = sum(len(key) + len(value) for key, value in trailers)
    if size > _MOST_TRAILERS:
        yield f"trailers of {size} bytes"
    for key, value in trailers:
        leaks.search(f"the trailer {key} of {descriptor.name}", value)
    if code is not grpc.StatusCode.INVALID_ARGUMENT:
        return
    try:
        status = rpc_status.from_call(error)
    except (ValueError, DecodeError) as problem:
        yield f"no status: {problem}"
        return
    if status is None:
        yield "INVALID_ARGUMENT without details"
        return
    reason, named = "", []
    for detail in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason = info.reason
        if detail.Unpack(bad):
            named += [violation.field for violation in bad.field_violations]
    if reason in _NO_FIELD:
        return
    if not named:
        yield f"INVALID_ARGUMENT names no field: {reason} {details[:300]}"
    known = set(descriptor.input_type.fields_by_name) | {
        field.name for oneof in descriptor.input_type.oneofs for field in oneof.fields
    }
    for field in named:
        if field.partition(".")[0].partition("[")[0] not in known:
            yield f"names {field!r}, which {descriptor.input_type.name} does not have"


def _is_for_the_service(descriptor: Any, answer: bytes) -> bool:
    """Return whether the answer is a changed configuration, for the service to keep secret."""
    if descriptor.containing_service.name != "EngineService" or b"\x42" not in answer:
        return False
    message: Any = message_factory.GetMessageClass(descriptor.output_type)()
    message.ParseFromString(answer)
    return hasattr(message, "message") and message.message.HasField("control")


def timed(ground: Ground, attempt: Mapping[str, Any], deadline: float) -> tuple[Outcome, float]:
    """Make the call, and return its outcome and its seconds."""
    began = time.monotonic()
    return run(ground, attempt, deadline), time.monotonic() - began
