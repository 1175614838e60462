"""Destinations, and the records that they reject."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from engine_server.connectors.interface.streams import (
    ConfigT,
    ConfigT_contra,
    Messages,
    SelectedStream,
)
from pipesync.v1.catalog_pb2 import Spec
from pipesync.v1.message_pb2 import Message


class Destination(Protocol[ConfigT]):
    """Writes records to an external system. One object per process serves concurrent requests.

    Raises the same errors as a ``Source``.
    """

    @property
    def config_model(self) -> type[ConfigT]:
        """The model that configurations are validated against."""

    def spec(self) -> Spec:
        """Return the description of the destination; needs neither network nor configuration."""

    def check(self, config: ConfigT, streams: Sequence[SelectedStream]) -> Messages:
        """Yield any logs, then one ``connection_status``.

        A failed connection is reported in the status, not raised.
        """

    def write(
        self,
        config: ConfigT,
        streams: Sequence[SelectedStream],
        messages: AsyncIterator[Message],
    ) -> Messages:
        """Commit the records of ``messages``, and yield every message in order.

        Order: a record batch is yielded once it is committed. A checkpoint, ``stream_status``,
        ``barrier`` or ``dead_letter`` is yielded only once every record batch before it is
        committed; logs may overtake. When ``messages`` ends, all pending records are committed and
        yielded before the generator ends.

        Barriers: records before a ``barrier`` are committed without waiting for more.

        Refused streams: a stream whose records the external system refuses permanently is reported
        once by ``stream_status.errored``. No message of that stream follows; other streams
        continue.

        Row counts: a destination that knows the effect of its writes reports it by
        ``rows_written``, directly after the last record batch that it counts and before any later
        message of the stream. Over a whole write, the counts of a stream add up to its records that
        were yielded.

        Rejected records: a destination may instead keep single records that it cannot write for a
        retry, in the transaction that writes the others. It counts them as ``rejected``, and yields
        ``rejected_records`` as its last message. See ``RejectedRecordKeeper``.

        The caller closes ``messages``. A destination that reads it from its own task ends that task
        before its generator ends.
        """

    def setup(self, config: ConfigT, streams: Sequence[SelectedStream]) -> Messages:
        """Create the resources that writing these streams needs. Idempotent and additive."""

    def teardown(self, config: ConfigT, streams: Sequence[SelectedStream]) -> Messages:
        """Remove the resources that ``setup`` created. Idempotent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryResult:
    """Outcome of a retry of rejected records.

    Attributes:
        retried: Number of records that were retried.
        written: Number of them that are in their table now.
        rejected: Number of them that the destination still rejects. The rest were outdated.
    """

    retried: int
    written: int
    rejected: int


@runtime_checkable
class RejectedRecordKeeper(Protocol[ConfigT_contra]):
    """Destination that keeps the records it rejects.

    Optional: other destinations report a stream with such a record as errored.
    """

    async def retry_rejected(
        self, config: ConfigT_contra, streams: Sequence[SelectedStream]
    ) -> RetryResult:
        """Retry the rejected records of these streams, and keep those that are rejected again.

        A retried record never replaces a newer one. Raises the same errors as ``write``.
        """
