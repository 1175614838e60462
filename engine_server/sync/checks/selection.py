"""Selection of a pipeline's streams from the source's catalog."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from engine_server.closest_name import NameHints
from engine_server.connectors.protocols import SelectedStream
from engine_server.errors import EmptyCatalog, InvalidRequest
from pipesync.v1.catalog_pb2 import Stream, StreamSelection, TimeRange
from pipesync_rpc.display_text import quote_name
from pipesync_rpc.errors import FieldViolation


def select_streams(
    streams: Iterable[Stream],
    selections: Sequence[StreamSelection],
    path: str,
    unavailable: Mapping[str, str] = MappingProxyType({}),
) -> list[SelectedStream]:
    """Return the streams that ``selections`` names, in that order; all streams if it is empty.

    Args:
        streams: Streams of the source's catalog.
        selections: Selections of the pipeline.
        path: Path of the selections in the request, e.g. ``pipeline.streams``.
        unavailable: Reason by name of each stream that the source currently does not offer.

    Raises:
        EmptyCatalog: The catalog is empty.
        InvalidRequest: A selection is invalid. The error names every invalid selection, and the
            closest known name of an unknown stream.
    """
    offered = {stream.name: stream for stream in streams}
    if not offered:
        raise EmptyCatalog("the source offers no streams, so there is nothing to sync")
    violations: list[FieldViolation] = []
    seen: set[str] = set()
    hints = NameHints()
    for index, selection in enumerate(selections):
        place = f"{path}[{index}]"
        violations += _violations(selection, place, offered, unavailable, seen, hints)
        seen.add(selection.name)
    if violations:
        raise InvalidRequest(violations)
    wanted = selections or [StreamSelection(name=name) for name in offered]
    return [SelectedStream(stream=offered[one.name], selection=one) for one in wanted]


def with_ceiling(selected: SelectedStream, ceiling: Timestamp) -> SelectedStream:
    """Return the stream with ``ceiling`` as its upper bound, unless the user's bound is earlier.

    With a bound in the future, the source's checkpoint would cover records that do not exist yet,
    and later reads would skip them.
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
    unavailable: Mapping[str, str],
    seen: set[str],
    hints: NameHints,
) -> list[FieldViolation]:
    name = selection.name
    if not name:
        return [FieldViolation(f"{path}.name", "is required")]
    if name in seen:
        return [FieldViolation(f"{path}.name", f"{quote_name('stream', name)} is selected twice")]
    if name in unavailable and name not in offered:
        sentence = f"the source cannot offer the stream {name!r} at present: {unavailable[name]}"
        return [FieldViolation(f"{path}.name", sentence)]
    if name not in offered:
        hint = hints.did_you_mean(name, offered, otherwise="discover lists those it has")
        return [
            FieldViolation(
                f"{path}.name", f"the source has no {quote_name('stream', name)}; {hint}"
            )
        ]
    violations = _unknown_fields(selection, path, offered[name], hints)
    if selection.backfill_limit < 0:
        violations.append(
            FieldViolation(f"{path}.backfill_limit", "must be 0, for no limit, or more")
        )
    if selection.HasField("time_range") and (fault := _fault(offered[name], selection.time_range)):
        violations.append(FieldViolation(f"{path}.time_range", fault))
    return violations


def _fault(stream: Stream, time_range: TimeRange) -> str:
    """Return the error of a stream's time range; empty if it is valid."""
    if not stream.supports_time_range:
        return f"stream {stream.name!r} cannot be read by time"
    try:
        gte, lt = time_range.gte.ToNanoseconds(), time_range.lt.ToNanoseconds()
    except ValueError:
        return "gte and lt must be valid times, in the years 1 to 9999"
    if time_range.HasField("gte") and time_range.HasField("lt") and gte >= lt:
        return "gte must be before lt"
    return ""


def _unknown_fields(
    selection: StreamSelection, path: str, stream: Stream, hints: NameHints
) -> list[FieldViolation]:
    """Return a violation for each selected field that the stream's schema does not list."""
    if not selection.fields or "properties" not in stream.json_schema:
        return []
    properties = stream.json_schema["properties"]
    known = set(properties.fields) if isinstance(properties, Struct) else set()
    unknown = [(number, name) for number, name in enumerate(selection.fields) if name not in known]
    if not unknown:
        return []
    others = f"it has: {', '.join(sorted(known))}"
    return [
        FieldViolation(
            f"{path}.fields[{number}]",
            f"stream {stream.name!r} has no {quote_name('field', field)}; "
            + hints.did_you_mean(field, known, otherwise=others),
        )
        for number, field in unknown
    ]
