"""Fields that each stream's history was read with, as part of the state.

An entry of ``SyncState.stream_schemas`` is the fingerprint of the fields that the whole history was
read with; ``READ>READING`` while the history is read again from the start, and ``>READING`` while
it is read for the first time. The checkpoint only covers records that were read with READING, so an
interrupted read that any later run continues is complete when the stream completes.

A fingerprint has three characters per field: 18 bits of a hash of its name and type. It shows which
fields were added, the only change that requires another read, and it keeps entries small: about 60
characters for most of Stripe's streams, and 240 for the largest. Size matters because the state, of
a hundred streams, is stored every second. An added field is mistaken for an existing one with a
probability of the number of the stream's fields in 262,144.
"""

import base64
import hashlib
from collections.abc import Collection, Iterator, Mapping

from google.protobuf.struct_pb2 import ListValue, Struct

from engine_server.state.recorded_schemas import RecordedSchema
from pipesync.v1.catalog_pb2 import Stream, StreamSelection
from pipesync.v1.message_pb2 import Log, Message
from pipesync.v1.state_pb2 import SyncState

_FIELD_LENGTH = 3
_READING = ">"
# Fingerprint of a stream without fields; it uses no character of the base64 alphabet.
_NO_FIELD = "-" * _FIELD_LENGTH
# Number of streams that a warning names.
_MAX_NAMES = 10


def fingerprint(stream: Stream, selection: StreamSelection) -> str:
    """Return the fingerprint of the fields that a stream is read with: all, or the selected ones.

    Empty if the source does not list the fields.
    """
    return "".join(sorted(_field_fingerprints(stream, frozenset(selection.fields))))


class StreamSchemas:
    """Entries of one state, kept up to date during a request that belongs to a run.

    Attributes:
        renewed: Names of the streams whose history was completely read again with added fields.
    """

    def __init__(self, state: SyncState, current: Mapping[str, str]) -> None:
        """Add entries for streams that lack one, as read with the current fields.

        Args:
            state: The state; its entries are updated in place.
            current: Fingerprint of each selected stream, in the order of the selection.
        """
        self._state = state
        self._entries = state.stream_schemas
        self._current = {name: text for name, text in current.items() if text}
        self._announced: set[str] = set()
        self._is_recorded = self._reconciles = False
        self.renewed: list[str] = []
        self._enter_missing()

    def forget_outdated(self) -> None:
        """Drop the checkpoints of outdated streams that are not already being read again."""
        for name in self.outdated():
            if not self._is_read_again(name) and name in self._state.source.streams:
                del self._state.source.streams[name]

    def begin(
        self, streams: Collection[str], *, is_recorded: bool = False, reconciles: bool = False
    ) -> None:
        """Update the entries of the streams that are read now, from the start if no checkpoint.

        Args:
            streams: Names of the streams.
            is_recorded: Whether a destination records the entries with the checkpoints.
            reconciles: Whether the run reconciles.
        """
        self._is_recorded, self._reconciles = is_recorded, reconciles
        # Rewound streams may have lost their entries.
        self._enter_missing()
        for name in streams:
            current = self._current.get(name)
            if current is None:
                continue
            read, reading = self._entry(name)
            has_checkpoint = name in self._state.source.streams
            # An interrupted first read that restarts may have written rows.
            read = read if has_checkpoint else read or reading
            # Rows are written without removed fields from now on.
            read = _common(read, current)
            if has_checkpoint:
                reading = _common(reading, current)
            else:
                # Without changed fields, the entry stays as it is.
                reading = current if read != current else ""
            self._entries[name] = f"{read}{_READING}{reading}" if reading else read

    def announce(self, message: Message) -> None:
        """Add the entry to a stream's first checkpoint, before it reaches the destination.

        If the destination records entries, the entry has a mark until ``observe``.
        """
        name = message.source_state.stream
        if not name or name in self._announced:
            return
        self._announced.add(name)
        entry = self._entries.get(name, "")
        message.source_state.stream_schema = (
            str(RecordedSchema(entry=entry, is_reconciling=self._reconciles))
            if self._is_recorded
            else entry
        )

    def observe(self, message: Message) -> None:
        """Update the entries by a message from the destination."""
        match message.WhichOneof("payload"):
            case "source_state" if message.source_state.stream_schema:
                recorded = RecordedSchema.parse(message.source_state.stream_schema)
                message.source_state.stream_schema = recorded.entry
            case "stream_status":
                self._observe_end(message)

    def outdated(self) -> list[str]:
        """Return the names of the selected streams with fields that their history lacks."""
        return [name for name in self._current if self._is_outdated(name)]

    def warning(self, *, can_reconcile: bool) -> Message | None:
        """Return the warning about outdated streams; None if there are none.

        Args:
            can_reconcile: Whether both connectors support reconciling.
        """
        outdated = self.outdated()
        if not outdated:
            return None
        option = "options.reconcile" if can_reconcile else "options.reread_outdated"
        waiting = [name for name in outdated if not self._is_read_again(name)]
        if waiting:
            remedy = f"call setup, then sync with {option} to read them again"
        else:
            remedy = "they are being read again, which later syncs go on with"
        sentence = (
            "older rows lack fields that were added since these streams were read: "
            f"{_listed(waiting or outdated)}; {remedy}"
        )
        message = Message(emitted_by="engine", log=Log(level=Log.LEVEL_WARN, message=sentence))
        message.log.data["outdated_stream_count"] = len(outdated)
        return message

    def _enter_missing(self) -> None:
        for name, text in self._current.items():
            if name in self._state.source.streams and name not in self._entries:
                self._entries[name] = text

    def _observe_end(self, message: Message) -> None:
        name = message.stream_status.stream
        if name not in self._entries:
            return
        read, reading = self._entry(name)
        if message.stream_status.HasField("completed") and reading:
            if _added(reading, read) and read:
                self.renewed.append(name)
            self._entries[name] = reading
        elif (
            message.stream_status.HasField("skipped")
            and reading
            and name not in self._state.source.streams
        ):
            # The stream cannot be read at all, so no row lacks the fields.
            self._entries[name] = f"{_READING}{reading}"

    def _is_outdated(self, name: str) -> bool:
        if name not in self._entries:
            return False
        read, reading = self._entry(name)
        return _added(self._current[name], read or reading)

    def _is_read_again(self, name: str) -> bool:
        _, reading = self._entry(name)
        return bool(reading) and not _added(self._current[name], reading)

    def _entry(self, name: str) -> tuple[str, str]:
        read, _, reading = self._entries.get(name, "").partition(_READING)
        return read, reading


def _added(now: str, before: str) -> bool:
    """Return whether ``now`` has fields that ``before`` lacks."""
    return now != before and not _fields(now) <= _fields(before)


def _common(before: str, now: str) -> str:
    """Return the fields in both fingerprints; empty if ``before`` is empty."""
    if not before or before == now:
        return before
    return "".join(sorted(_fields(before) & _fields(now))) or _NO_FIELD


def _fields(text: str) -> set[str]:
    return {text[at : at + _FIELD_LENGTH] for at in range(0, len(text), _FIELD_LENGTH)}


def _field_fingerprints(stream: Stream, selected: frozenset[str]) -> Iterator[str]:
    if "properties" not in stream.json_schema:
        return
    properties = stream.json_schema["properties"]
    if not isinstance(properties, Struct):
        return
    for name, schema in properties.items():
        if not selected or name in selected:
            text = f"{name}:{_type(schema)}".encode()
            yield base64.b64encode(hashlib.blake2b(text, digest_size=3).digest()).decode()[
                :_FIELD_LENGTH
            ]


def _type(schema: object) -> str:
    """Return a field's type without null, because nullability does not change rows."""
    kinds = schema["type"] if isinstance(schema, Struct) and "type" in schema else ""
    if isinstance(kinds, ListValue):
        return ",".join(sorted(str(kind) for kind in kinds if kind != "null"))
    return str(kinds)


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_MAX_NAMES])
    more = len(names) - _MAX_NAMES
    return f"{shown} and {more} more" if more > 0 else shown
