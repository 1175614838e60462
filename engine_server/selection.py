"""Which of the source's streams a pipeline syncs, and how."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from engine_server.connectors.protocols import SelectedStream
from engine_server.errors import EmptyCatalog, InvalidRequest
from engine_server.suggestion import did_you_mean
from pipesync.v1.catalog_pb2 import Stream, StreamSelection, TimeRange
from pipesync_rpc.errors import FieldViolation


def select_streams(
    streams: Iterable[Stream],
    selections: Sequence[StreamSelection],
    path: str,
    left_out: Mapping[str, str] = MappingProxyType({}),
) -> list[SelectedStream]:
    """The streams that ``selections`` names, in that order; all of them when it is empty.

    Args:
        streams: What the source offers.
        selections: What the pipeline wants.
        path: Where the selections stand in the request, e.g. ``pipeline.streams``.
        left_out: Why the source does not offer streams that it otherwise would, by name.

    Raises:
        EmptyCatalog: The source offers nothing.
        InvalidRequest: names every selection that cannot be met, unknown streams with their
            nearest match.
    """
    offered = {stream.name: stream for stream in streams}
    if not offered:
        raise EmptyCatalog("the source offers no streams, so there is nothing to sync")
    violations: list[FieldViolation] = []
    seen: set[str] = set()
    for index, selection in enumerate(selections):
        violations += _violations(selection, f"{path}[{index}]", offered, left_out, seen)
        seen.add(selection.name)
    if violations:
        raise InvalidRequest(violations)
    wanted = selections or [StreamSelection(name=name) for name in offered]
    return [SelectedStream(stream=offered[one.name], selection=one) for one in wanted]


def with_ceiling(selected: SelectedStream, ceiling: Timestamp) -> SelectedStream:
    """The same stream, read up to ``ceiling``, or up to when the user said if that is earlier.

    A bound in the future would have the source account for time that has not come yet, and skip
    what happens in it.
    """
    time_range = selected.selection.time_range
    if not selected.stream.supports_time_range:
        return selected
    if time_range.HasField("lt") and time_range.lt.ToNanoseconds() <= ceiling.ToNanoseconds():
        return selected
    selection = StreamSelection()
    selection.CopyFrom(selected.selection)
    selection.time_range.lt.CopyFrom(ceiling)
    return SelectedStream(stream=selected.stream, selection=selection)


def _violations(
    selection: StreamSelection,
    path: str,
    offered: Mapping[str, Stream],
    left_out: Mapping[str, str],
    seen: set[str],
) -> list[FieldViolation]:
    name = selection.name
    if not name:
        return [FieldViolation(f"{path}.name", "is required")]
    if name in seen:
        return [FieldViolation(f"{path}.name", f"stream {name!r} is selected twice")]
    if name in left_out and name not in offered:
        sentence = f"the source cannot offer the stream {name!r} at present: {left_out[name]}"
        return [FieldViolation(f"{path}.name", sentence)]
    if name not in offered:
        hint = did_you_mean(name, offered, otherwise="discover lists those it has")
        return [FieldViolation(f"{path}.name", f"the source has no stream {name!r}; {hint}")]
    violations = _unknown_fields(selection, path, offered[name])
    if selection.backfill_limit < 0:
        violations.append(
            FieldViolation(f"{path}.backfill_limit", "must be 0, for no limit, or more")
        )
    if selection.HasField("time_range") and (fault := _fault(offered[name], selection.time_range)):
        violations.append(FieldViolation(f"{path}.time_range", fault))
    return violations


def _fault(stream: Stream, time_range: TimeRange) -> str:
    """What is wrong with a stream's time range; empty when nothing is."""
    if not stream.supports_time_range:
        return f"stream {stream.name!r} cannot be read by time"
    try:
        gte, lt = time_range.gte.ToNanoseconds(), time_range.lt.ToNanoseconds()
    except ValueError:
        return "gte and lt must be valid times, in the years 1 to 9999"
    if time_range.HasField("gte") and time_range.HasField("lt") and gte >= lt:
        return "gte must be before lt"
    return ""


def _unknown_fields(selection: StreamSelection, path: str, stream: Stream) -> list[FieldViolation]:
    """The selected fields that the stream's schema, if it lists any, does not have."""
    if "properties" not in stream.json_schema:
        return []
    properties = stream.json_schema["properties"]
    known = properties.fields if isinstance(properties, Struct) else {}
    return [
        FieldViolation(
            f"{path}.fields[{number}]",
            f"stream {stream.name!r} has no field {field!r}; "
            + did_you_mean(field, known, otherwise=f"it has: {', '.join(sorted(known))}"),
        )
        for number, field in enumerate(selection.fields)
        if field not in known
    ]
