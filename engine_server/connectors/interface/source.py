"""Sources, and the optional capabilities that a source may have."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from engine_server.connectors.interface.reading import ReadRequest
from engine_server.connectors.interface.streams import (
    ConfigT,
    ConfigT_contra,
    Messages,
    SelectedStream,
)
from pipesync.v1.catalog_pb2 import Spec, Stream
from pipesync.v1.message_pb2 import SourceInput


class Source(Protocol[ConfigT]):
    """Reads records from an external system. One object per process serves concurrent requests.

    A source that cannot continue raises ``engine_server.errors.ConnectionFailed`` if the external
    system is unreachable or refuses access, else ``ConnectorError``. Any other exception counts as
    a bug in the source.
    """

    @property
    def config_model(self) -> type[ConfigT]:
        """The model that configurations are validated against."""

    def spec(self) -> Spec:
        """Return the description of the source; needs neither network nor configuration."""

    def check(self, config: ConfigT, streams: Sequence[SelectedStream]) -> Messages:
        """Yield any logs, then one ``connection_status``.

        A failed connection is reported in the status, not raised. Where access differs between
        streams, the status names the streams that cannot be read.
        """

    def discover(self, config: ConfigT) -> Messages:
        """Yield any logs, then one ``catalog``."""

    def read(self, config: ConfigT, request: ReadRequest) -> Messages:
        """Yield the records of the streams, from their checkpoints on.

        Order: for each stream, ``stream_status.started``; then record batches, each followed by the
        checkpoint (``source_state``) that covers it; ``range_completed`` after the checkpoint that
        covers the range; finally ``completed``, ``skipped`` or ``errored``. Streams may interleave.
        A checkpoint covers only records that were yielded before it. A stream whose checkpoint says
        that nothing is left is ``started`` and ``completed`` without a fetch.

        Changes: a source that observes changes to records it has read yields them after the
        history, as record batches followed by the shared checkpoint (one without a ``stream``). A
        shared checkpoint covers all streams except its ``excluded_streams``. ``request.streams`` is
        empty when only changes are left to read.

        Dead letters: an event that keeps failing for a reason of its own, after the source's
        retries, is yielded as a ``dead_letter`` before the checkpoint that covers it. As soon as
        one request has the number or bytes of dead letters that ``engine_server.dead_letters``
        allows, the source yields that checkpoint, and the request ends there. Dead letters of
        ``inputs`` follow all records.

        Tasks: each message may be awaited in another task. Nothing that belongs to one task, such
        as an ``asyncio.TaskGroup`` or ``asyncio.timeout``, may stay open across a ``yield``.

        Time: ``until`` and ``time_range.lt`` may lie in the future, because clocks differ or users
        ask for it, so records below the bound may appear after the read. The stream completes
        nevertheless, but no checkpoint covers anything later than the time of the read: the next
        run reads the records that appeared since, and the last seconds before the read again.
        """

    def setup(self, config: ConfigT, streams: Sequence[SelectedStream]) -> Messages:
        """Create the resources that reading needs in the external system. Idempotent.

        A control message carries the whole configuration, with fields that setup filled in; the
        service stores the fields that differ from ``config``. If the pipeline's source was changed
        meanwhile to another target or other credentials, the service stores none of them, and calls
        ``teardown`` with that configuration if they include a secret.
        """

    def teardown(self, config: ConfigT, streams: Sequence[SelectedStream]) -> Messages:
        """Remove the resources that ``setup`` created. Idempotent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFault:
    """Reason why a source rejects one of the inputs pushed to it.

    Attributes:
        number: Index of the input, from 0.
        field: Invalid field of the input, e.g. ``webhook``; empty for the whole input.
        description: One sentence that names the error and a valid form.
        is_unverified: Whether the sender of the input could not be verified.
    """

    number: int
    field: str
    description: str
    is_unverified: bool = False


@runtime_checkable
class InputChecker(Protocol[ConfigT_contra]):
    """Source that validates pushed inputs before the sync begins.

    Optional: callers then learn about all invalid inputs at once, before any work is done.
    """

    def check_inputs(
        self, config: ConfigT_contra, inputs: Sequence[SourceInput]
    ) -> Sequence[InputFault]:
        """Return the faults of the inputs; only inputs without a fault are passed to ``read``.

        Must return promptly and without network access, because other requests wait meanwhile. The
        engine passes a few inputs per call; ``InputFault.number`` counts from the first of them.

        Raises:
            SettingMissing: The configuration lacks the setting that inputs are verified with.
        """


@runtime_checkable
class StreamLookup(Protocol[ConfigT_contra]):
    """Source that can return some of its streams faster than its whole catalog.

    Optional: the engine discovers the whole catalog for each call otherwise.
    """

    async def look_up(self, config: ConfigT_contra, names: AbstractSet[str]) -> Sequence[Stream]:
        """Return the streams with these names, as in the catalog; unknown names are left out."""


@runtime_checkable
class StreamExplainer(Protocol):
    """Source that knows why it currently does not offer certain streams.

    Optional: selecting such a stream then fails with that reason.
    """

    def unavailable_streams(self) -> Mapping[str, str]:
        """Return the reason, one sentence, for each missing stream by name.

        Valid after the source has discovered its catalog.
        """


@runtime_checkable
class SourceClock(Protocol[ConfigT_contra]):
    """Source that knows the time of the external system's clock.

    Optional: the engine's clock, which may be fast or slow, sets the time ceiling of runs
    otherwise.
    """

    def source_time(self, config: ConfigT_contra) -> int | None:
        """Return the external system's time in Unix nanoseconds; None while it is unknown.

        Must return promptly and without network access, because other requests wait meanwhile.
        """


@runtime_checkable
class AccountSource(Protocol[ConfigT_contra]):
    """Source whose records belong to an account in the external system.

    Optional: destinations record the checkpoints of other sources under an empty account.
    """

    async def account_id(self, config: ConfigT_contra) -> str:
        """Return the id of the account that the configuration reads; empty when it has none.

        Called concurrently with ``read``, which needs the id as well: one request to the external
        system should serve both.

        Raises:
            ConnectionFailed: The external system is unreachable, or refuses the configuration.
        """
