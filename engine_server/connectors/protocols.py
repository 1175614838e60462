"""The seams of the engine: what it asks of a source and of a destination."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

from google.protobuf.timestamp_pb2 import Timestamp

from engine_server.barriers import Barriers
from engine_server.connectors.config import ConnectorConfig
from pipesync.v1.catalog_pb2 import Spec, Stream, StreamSelection
from pipesync.v1.message_pb2 import Message, SourceInput
from pipesync.v1.state_pb2 import CheckpointPosition, SourceState, SyncState

# Every method is an async generator: the engine closes it early at a limit or a cancellation, and
# its `finally` blocks must then end every task, connection and socket that it opened.
Messages = AsyncGenerator[Message, None]

ConfigT = TypeVar("ConfigT", bound=ConnectorConfig)
ConfigT_contra = TypeVar("ConfigT_contra", bound=ConnectorConfig, contravariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedStream:
    """A stream that the source offers and the pipeline wants.

    Attributes:
        stream: What the source's catalog says of it.
        selection: What the user said of it; time_range.lt is filled in with the run's ceiling where
            the stream supports ranges and the user set none.
    """

    stream: Stream
    selection: StreamSelection

    @property
    def name(self) -> str:
        """The stream's name."""
        return self.stream.name


class Inventory(Protocol):
    """What a destination holds of the selected streams, deleted records left out unless it is said.

    All questions are about the records of one account: the one that is named, else the one that
    ``Stream.metadata`` names. Where neither does, they are about all records. What is still on its
    way into the destination may be missing from the answers.
    """

    def created_in(
        self, stream: str, gte: int | None, lt: int | None, *, account_id: str = ""
    ) -> AsyncGenerator[Mapping[str, int | None], None]:
        """Yields the ids of the records whose ``Stream.time_range_field`` lies in [gte, lt).

        Each with its time, newest first, or with None and in any order where there is no bound. A
        few thousand at a time at most, however many there are.

        Args:
            stream: Whose records.
            gte: Inclusive lower bound in Unix seconds; None is no bound.
            lt: Exclusive upper bound; None is no bound. Records without a time count only where
                there is no bound at all.
            account_id: The value of their ``_account_id``; see above.
        """

    async def belonging_to(
        self, stream: str, field: str, owners: Collection[str], *, account_id: str = ""
    ) -> Collection[tuple[str, str]]:
        """The records whose ``field`` is one of ``owners``: the owner and the id of each."""

    async def stamped(
        self, stream: str, ids: Collection[str], *, account_id: str = ""
    ) -> Mapping[str, int]:
        """How new the records of these ids are: their ``Stream.newer_than_field`` in Unix seconds.

        Deleted ones count, too. Those that are not there, or have no such field, are left out.
        """


@runtime_checkable
class QuickInventory(Protocol):
    """An inventory that can be asked amid events.

    Optional: other inventories are asked by ``belonging_to``, which may first prepare for many such
    questions, and take long.
    """

    async def belonging_to_at_once(
        self, stream: str, field: str, owners: Collection[str], *, account_id: str = ""
    ) -> Collection[tuple[str, str]]:
        """The same as ``Inventory.belonging_to``, and nothing is prepared for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """What one read is to do.

    Attributes:
        streams: The streams whose history is to be read, and no others.
        selected: All streams of the pipeline, those that this run has read included: what happens
            to their records is followed. Empty where it is the same as ``streams``.
        state: The checkpoints to go on from, of more streams than are read perhaps; an absent one
            means from the start.
        until: Where the run ends in time; what is made later belongs to another run. None for now.
            A stream's own time_range.lt is never later.
        state_limit: How many checkpoints this request will still take; None when it takes all.
            Fetching what comes after them is waste.
        refused_streams: The streams that failed, in this run before or downstream so far. It grows
            while the read goes on: a source looks before each fetch and reads these no further. A
            checkpoint of all streams that accounts for one of them is dropped
            (``StateCheckpoint.excluded_streams``).
        begins_run: Whether it is the first request of its run: then what an earlier read found to
            lie ahead in time is to be read, even if the same is asked for again.
        events_only: No history is to be read, whatever is left of it: only what happened since the
            checkpoint of all streams.
        inputs: When there are any, the source handles these instead of reading its history.
        listen: Whether to go on after that, if the source is configured to listen for what happens:
            until the read is closed.
        barriers: Tells when what was yielded is committed.
        inventory: What the destination holds; None when there is none that could tell. Nobody has
            reached for it before it is asked.
        reconcile: Whether what the destination holds of the history that is read, and the source
            has no more, is to be yielded as deleted. Then there is an inventory.
        on_listening: To be called once the source has yielded all there is and waits for what
            happens: a limit that is reached after that left nothing unread.
    """

    streams: Sequence[SelectedStream]
    state: SourceState = field(default_factory=SourceState)
    until: Timestamp | None = None
    state_limit: int | None = None
    refused_streams: AbstractSet[str] = frozenset()
    begins_run: bool = False
    events_only: bool = False
    inputs: Sequence[SourceInput] = ()
    selected: Sequence[SelectedStream] = ()
    listen: bool = False
    barriers: Barriers = field(default_factory=Barriers)
    inventory: Inventory | None = None
    reconcile: bool = False
    on_listening: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFault:
    """Why a source does not take one of the inputs that are pushed into it.

    Attributes:
        number: Which of them, from 0.
        field: What of it is wrong, e.g. ``webhook``; empty for all of it.
        description: What is wrong and what would be right, one sentence.
        is_unverified: Whether nothing shows that it is from whom it should be.
    """

    number: int
    field: str
    description: str
    is_unverified: bool = False


@runtime_checkable
class InputChecker(Protocol[ConfigT_contra]):
    """A source that looks at what is pushed into it before the sync begins.

    Optional: what is wrong with an input is then told before any work, and all of it at once.
    """

    def check_inputs(
        self, config: ConfigT_contra, inputs: Sequence[SourceInput]
    ) -> Sequence[InputFault]:
        """What is wrong with the inputs; only those without a fault come to ``read``.

        Without network, and at once: other requests wait meanwhile.

        Raises:
            SettingMissing: The configuration does not say what they are checked against.
        """


@runtime_checkable
class StreamLookup(Protocol[ConfigT_contra]):
    """A source that can tell of some of its streams for less than of all of them.

    Optional: its whole catalog is discovered for each call otherwise.
    """

    async def look_up(self, config: ConfigT_contra, names: AbstractSet[str]) -> Sequence[Stream]:
        """The streams of these names, as discover has them; without those that there are not."""


@runtime_checkable
class StreamExplainer(Protocol):
    """A source that can say why it does not offer a stream that it otherwise would.

    Optional: a selection of such a stream is then refused with that reason.
    """

    def left_out_streams(self) -> Mapping[str, str]:
        """Why each such stream is missing, one sentence each, by name; once it has discovered."""


@runtime_checkable
class SourceClock(Protocol[ConfigT_contra]):
    """A source that knows what time it is at its far side.

    Optional: runs end in time by the engine's own clock otherwise, which may be ahead or behind.
    """

    def now(self, config: ConfigT_contra) -> int | None:
        """Return the far side's time in Unix nanoseconds; None when nothing has told it yet.

        Without network, and at once: other requests wait meanwhile.
        """


class Source(Protocol[ConfigT]):
    """Where records come from. One object per process serves all requests at once.

    A source that cannot go on raises ``engine_server.errors.ConnectionFailed`` when its far side is
    out of reach or refuses it, else ``ConnectorError``. Any other exception is a bug of the source.
    """

    @property
    def config_model(self) -> type[ConfigT]:
        """The model that its configuration is checked against."""

    def spec(self) -> Spec:
        """Its own description: no network, no configuration needed."""

    def check(self, config: ConfigT, streams: Sequence[SelectedStream]) -> Messages:
        """Yields one connection_status, after logs if any; failing to connect is no exception.

        Where access differs from stream to stream, it names those that cannot be read.
        """

    def discover(self, config: ConfigT) -> Messages:
        """Yields one catalog, after logs if any."""

    def read(self, config: ConfigT, request: ReadRequest) -> Messages:
        """Yields the records of the streams, from their checkpoints on.

        For each stream, in this order: ``stream_status.started``; record batches, each followed by
        the checkpoint (``source_state``) that accounts for it; ``range_completed`` after the
        checkpoint that covers the range; last ``completed``, ``skipped`` or ``errored``. Streams
        may interleave. A checkpoint accounts for nothing but records yielded before it. A stream
        whose checkpoint says that nothing is left is ``started`` and ``completed`` without a fetch.

        What happens to records after they were read, if the source can tell, comes behind the
        history: more record batches, and the checkpoint of all streams (without a ``stream``). It
        accounts for all of them but those that it says it does not. ``streams`` may be empty when
        nothing but that is left.

        What of that fails for a reason of its own, as often as the source tries, is yielded as a
        ``dead_letter``, ahead of the checkpoint that passes it. With as many of them as
        ``engine_server.dead_letters`` lets one request list, that checkpoint follows at once: the
        request ends with it. Of ``inputs``, they come behind all records.

        Each message may be awaited in another task: nothing that belongs to one task, such as an
        ``asyncio.TaskGroup`` or ``asyncio.timeout``, may be open across a ``yield``.

        ``until`` and ``time_range.lt`` may lie ahead by any time, as clocks differ and users may
        ask for it, so records may still come up before them when the read is over. The stream
        completes all the same, but no checkpoint accounts for anything later than the time of the
        read: the next run reads what came up since, and the last seconds before it again.
        """

    def setup(self, config: ConfigT, streams: Sequence[SelectedStream]) -> Messages:
        """Makes what reading needs at the far side; safe to repeat.

        A control message asks the caller to store a changed configuration, whole.
        """

    def teardown(self, config: ConfigT, streams: Sequence[SelectedStream]) -> Messages:
        """Removes what setup made; safe to repeat."""


class Destination(Protocol[ConfigT]):
    """Where records go. One object per process serves all requests at once.

    Raises as a source does.
    """

    @property
    def config_model(self) -> type[ConfigT]:
        """The model that its configuration is checked against."""

    def spec(self) -> Spec:
        """Its own description: no network, no configuration needed."""

    def check(self, config: ConfigT, streams: Sequence[SelectedStream]) -> Messages:
        """Yields one connection_status, after logs if any; failing to connect is no exception."""

    def write(
        self,
        config: ConfigT,
        streams: Sequence[SelectedStream],
        messages: AsyncIterator[Message],
    ) -> Messages:
        """Commits the records of ``messages`` and yields every message on, in order.

        A record batch is yielded once it is committed. A checkpoint, and any stream_status, is
        yielded only after every record batch before it is; logs may overtake. When ``messages``
        ends, all that is held is committed and yielded before the generator ends. A stream whose
        records are refused for good is reported once by ``stream_status.errored``, and nothing of
        it is yielded after that; the other streams go on.

        A ``barrier`` and a ``dead_letter`` are yielded as a checkpoint is. A ``barrier`` is yielded
        soon: what is before it is committed without waiting for more.

        A destination that can tell what became of the records says so by ``rows_written``: right
        behind the last record batch that it counts, so before what may follow of the stream. Over
        a whole write, the counts of each stream add up to its records that were yielded.

        A destination may keep single records that it cannot write for a retry instead, in the
        transaction that writes the others: it counts them as ``rejected``, and yields
        ``rejected_records`` as its last message. See ``RejectedRecordKeeper``.

        ``messages`` is the caller's to close, but a destination that reads it from a task of its
        own ends that task before it ends itself.
        """

    def setup(self, config: ConfigT, streams: Sequence[SelectedStream]) -> Messages:
        """Makes what writing these streams needs; safe to repeat, and additive."""

    def teardown(self, config: ConfigT, streams: Sequence[SelectedStream]) -> Messages:
        """Removes what setup made; safe to repeat."""


@runtime_checkable
class Resident(Protocol):
    """A source or destination that has something to gain from a process that goes on.

    Optional: outside the block that it opens, it leaves nothing behind when a call ends.
    """

    def kept_open(self) -> AbstractAsyncContextManager[None]:
        """Prepares what calls need, and lets it keep for a few seconds what the next one may need.

        Connections, for example, which are gone when the block ends.
        """


class InventoryKeeper(Protocol[ConfigT_contra]):
    """What a destination is besides whose spec says ``supports_reconcile``."""

    def inventory(
        self, config: ConfigT_contra, streams: Sequence[SelectedStream]
    ) -> AbstractAsyncContextManager[Inventory]:
        """What it holds of ``streams``: to be asked until it is closed, also during a write.

        Opening it reaches for nothing: the first question does. What ``write`` has yielded is in
        the answers. A question raises as ``write`` does.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryResult:
    """What became of records that were written once more.

    Attributes:
        retried: How many there were.
        written: Those of them that are in their table now.
        rejected: Those that the destination still rejects; the others were outdated.
    """

    retried: int
    written: int
    rejected: int


@runtime_checkable
class RejectedRecordKeeper(Protocol[ConfigT_contra]):
    """A destination that keeps the records which it rejects.

    Optional: others report a stream with such a record as errored.
    """

    async def retry_rejected(
        self, config: ConfigT_contra, streams: Sequence[SelectedStream]
    ) -> RetryResult:
        """Writes the kept records of these streams once more, and keeps those that it rejects.

        A record never takes the place of a newer one. Raises as ``write`` does.
        """


@runtime_checkable
class AccountKeeper(Protocol[ConfigT_contra]):
    """A source whose records belong to an account at its far side.

    Optional: a destination records the checkpoints of other sources under an empty account.
    """

    async def account_id(self, config: ConfigT_contra) -> str:
        """Return the id of the account that the configuration reads; empty when it has none.

        Called beside ``read``, which needs the id as well: the far side is asked once for both.

        Raises:
            ConnectionFailed: The far side is unavailable, or refuses the configuration.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequest:
    """A request's state, for a destination to compare with the checkpoints that it recorded.

    Attributes:
        account_id: The account at the source; empty when it has none.
        state: The state that the request begins with. Its ``source`` may hold checkpoints of
            streams that are not selected.
        reads: Names of the streams whose checkpoints the request moves.
        moves_global: Whether it moves the checkpoint that all streams share.
        pushes_inputs: Whether it writes inputs whose end is to be recorded (``inputs_end``).
        replayable_inputs: The caller can send all inputs behind this position again; None when it
            keeps none.
    """

    account_id: str
    state: SyncState
    reads: Collection[str]
    moves_global: bool
    pushes_inputs: bool = False
    replayable_inputs: CheckpointPosition | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewind:
    """One stream that the destination does not hold up to the caller's checkpoint.

    Attributes:
        stream: Its name; empty for the checkpoint that all streams share.
        reason: Why it goes back, in one sentence.
        checkpoint: The recorded checkpoint to go on from; None to read from the start.
        stream_schema: What ``SyncState.stream_schemas`` held when that one was recorded; empty when
            it held nothing.
        is_empty: Whether its table holds no rows. Rows that stay although the stream is read from
            the start may be of records that were deleted since.
    """

    stream: str
    reason: str
    checkpoint: str | None
    stream_schema: str = ""
    is_empty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The outcome of a comparison.

    Attributes:
        destination: The new ``SyncState.destination``.
        positions: The new ``SyncState.positions``, of all streams and of the global checkpoint.
        inputs_position: The new ``SyncState.inputs_position``; None for none.
        rewinds: The streams that go back; none means that the state was as expected.
        inputs_are_lost: Whether inputs that the caller had committed are missing.
        lost_inputs_are_replayable: Whether the caller can send all of them again. Where it cannot,
            each stream of the pipeline is among ``rewinds``.
        held_inputs: The last inputs position that it still holds; None for none.
        held_streams: For a state without any source checkpoint, the selected streams of which it
            holds records of the account all the same.
        ticket: What ``write_resumed`` needs; only the destination looks into it.
    """

    destination: str
    positions: Mapping[str, CheckpointPosition]
    inputs_position: CheckpointPosition | None
    rewinds: Sequence[Rewind]
    inputs_are_lost: bool = False
    lost_inputs_are_replayable: bool = False
    held_inputs: CheckpointPosition | None = None
    held_streams: Collection[str] = ()
    ticket: object = None


@runtime_checkable
class CheckpointKeeper(Protocol[ConfigT_contra]):
    """A destination that records checkpoints in the transactions that write the rows before them.

    Optional: with others, the caller's state alone says where a sync goes on.

    A recorded checkpoint is always true: the destination holds every record before it. The engine
    calls ``resume`` before the first record of each request is written, and then ``write_resumed``
    in the place of ``write``.
    """

    async def resume(
        self,
        config: ConfigT_contra,
        streams: Sequence[SelectedStream],
        request: ResumeRequest,
    ) -> Resumed:
        """Compare the caller's state with the recorded checkpoints, and begin new epochs.

        Tables that do not exist are made first, as ``write`` makes them. A state whose
        ``destination`` is empty is new, or an older version's: it starts a lineage. Raises as
        ``write`` does.
        """

    def write_resumed(
        self,
        config: ConfigT_contra,
        streams: Sequence[SelectedStream],
        messages: AsyncIterator[Message],
        resumed: Resumed,
    ) -> Messages:
        """Write as ``write`` does, and record each checkpoint before it is yielded.

        A ``source_state`` is yielded with ``position`` set, and an ``inputs_end`` likewise, once
        the position is committed.

        Raises:
            engine_server.errors.CheckpointsMoved: See there.
        """
