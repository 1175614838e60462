"""The part of a state that remembers the fields which each stream's history was read with.

An entry of ``SyncState.stream_schemas`` is the fingerprint of the fields that the whole history was
read with; ``READ>READING`` while it is read from the start again, and ``>READING`` while it is read
for the first time. The checkpoint accounts for nothing that was not read with READING, so a read
that is interrupted, and gone on with by any later run, is done when the stream completes.

A fingerprint has three characters for each field: 18 bits of a hash of its name and type. So it can
be seen which fields were added, which alone need another read, and an entry stays small: some 60
characters for most of Stripe's streams, and 240 for the largest. That counts, as the state is
stored every second, with a hundred streams. A field that is added is mistaken for one that was
there before once in 262,144 divided by the number of the stream's fields.
"""

import base64
import hashlib
from collections.abc import Collection, Iterator, Mapping

from google.protobuf.struct_pb2 import ListValue, Struct

from engine_server.recorded_schemas import RecordedSchema
from pipesync.v1.catalog_pb2 import Stream, StreamSelection
from pipesync.v1.message_pb2 import Log, Message
from pipesync.v1.state_pb2 import SyncState

_FIELD_LENGTH = 3
_READING = ">"
# The fingerprint of no field: it is not in the alphabet of those of fields.
_NO_FIELD = "-" * _FIELD_LENGTH
# More names than that make no sentence.
_MOST_NAMES = 10


def fingerprint(stream: Stream, selection: StreamSelection) -> str:
    """The fields that a stream is read with: all of them, or those that are selected.

    Empty where the source does not list them.
    """
    return "".join(sorted(_field_fingerprints(stream, frozenset(selection.fields))))


class StreamSchemas:
    """Keeps the entries of one state up to date during a request that belongs to a run.

    Attributes:
        renewed: The streams that were read again to the end, with fields that were added.
    """

    def __init__(self, state: SyncState, current: Mapping[str, str]) -> None:
        """Enters the streams that have none, as read with the fields of now.

        Args:
            state: Its entries are changed in place.
            current: The fingerprint of each selected stream, in the order of the selection.
        """
        self._state = state
        self._entries = state.stream_schemas
        self._current = {name: text for name, text in current.items() if text}
        self._announced: set[str] = set()
        self._is_recorded = self._reconciles = False
        self.renewed: list[str] = []
        self._enter_missing()

    def forget_outdated(self) -> None:
        """Drops the checkpoints of the outdated streams that are not being read again already."""
        for name in self.outdated():
            if not self._is_read_again(name) and name in self._state.source.streams:
                del self._state.source.streams[name]

    def begin(
        self, streams: Collection[str], *, is_recorded: bool = False, reconciles: bool = False
    ) -> None:
        """Notes which streams are read from here on: those without a checkpoint from the start.

        Args:
            streams: Their names.
            is_recorded: Whether a destination records the entries beside the checkpoints.
            reconciles: Whether what is read is compared with what the destination holds.
        """
        self._is_recorded, self._reconciles = is_recorded, reconciles
        # Streams that went back lost theirs.
        self._enter_missing()
        for name in streams:
            current = self._current.get(name)
            if current is None:
                continue
            read, reading = self._entry(name)
            has_checkpoint = name in self._state.source.streams
            # A first read that begins anew may have left rows already.
            read = read if has_checkpoint else read or reading
            # From here on rows are written without the fields that were removed.
            read = _common(read, current)
            if has_checkpoint:
                reading = _common(reading, current)
            else:
                # Where nothing changes, nothing is to be noted.
                reading = current if read != current else ""
            self._entries[name] = f"{read}{_READING}{reading}" if reading else read

    def announce(self, message: Message) -> None:
        """Give a checkpoint on its way to the destination its entry, if it is its stream's first.

        For a destination that records it, the entry is marked until ``observe``.
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
        """Takes in a message that the destination passed on."""
        match message.WhichOneof("payload"):
            case "source_state" if message.source_state.stream_schema:
                recorded = RecordedSchema.parse(message.source_state.stream_schema)
                message.source_state.stream_schema = recorded.entry
            case "stream_status":
                self._observe_end(message)

    def outdated(self) -> list[str]:
        """The selected streams that have fields which their history was not read with."""
        return [name for name in self._current if self._is_outdated(name)]

    def warning(self, *, can_reconcile: bool) -> Message | None:
        """Return the warning that a sync begins with; None when no stream is outdated.

        Args:
            can_reconcile: Whether both connectors can.
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
            # Nothing of it can be read: there is nothing left to read again.
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
    """Whether there are fields now that there were not before."""
    return now != before and not _fields(now) <= _fields(before)


def _common(before: str, now: str) -> str:
    """The fields that there were before and are now; empty where nothing was noted before."""
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
    """A field's type; whether it may be null besides makes no row another one."""
    kinds = schema["type"] if isinstance(schema, Struct) and "type" in schema else ""
    if isinstance(kinds, ListValue):
        return ",".join(sorted(str(kind) for kind in kinds if kind != "null"))
    return str(kinds)


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_MOST_NAMES])
    more = len(names) - _MOST_NAMES
    return f"{shown} and {more} more" if more > 0 else shown
