"""Queries for the rows that a destination stores."""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from engine_server.connectors.interface.streams import ConfigT_contra, SelectedStream


class StoredRows(Protocol):
    """Queries for the records that a destination holds of the selected streams.

    Deleted records are left out unless a method says otherwise. Each query covers the records of
    one account: ``account_id`` if given, else the account in ``Stream.metadata``. Without either,
    it covers all records. Records that are not committed yet may be missing from a result.
    """

    def created_in(
        self, stream: str, gte: int | None, lt: int | None, *, account_id: str = ""
    ) -> AsyncGenerator[Mapping[str, int | None], None]:
        """Yield the ids of the records whose ``Stream.time_range_field`` lies in [gte, lt).

        Each id is mapped to its time, newest first. Without any bound, times may be None and the
        order is arbitrary. A mapping holds at most a few thousand ids.

        Args:
            stream: Name of the stream.
            gte: Inclusive lower bound in Unix seconds; None for no bound.
            lt: Exclusive upper bound in Unix seconds; None for no bound. Records without a time
                are included only when both bounds are None.
            account_id: Value of the records' ``_account_id``; see the class.
        """

    async def belonging_to(
        self, stream: str, field: str, owners: Collection[str], *, account_id: str = ""
    ) -> Collection[tuple[str, str]]:
        """Return owner and id of each record whose ``field`` is one of ``owners``."""

    async def update_times(
        self, stream: str, ids: Collection[str], *, account_id: str = ""
    ) -> Mapping[str, int]:
        """Return ``Stream.newer_than_field``, in Unix seconds, of the records with these ids.

        Deleted records are included. Records that do not exist or lack the field are left out.
        """


@runtime_checkable
class QuickStoredRows(Protocol):
    """Stored rows with a query that is fast enough to run while events are processed.

    Optional: others are queried by ``belonging_to``, which may be slow at first because
    it prepares for many similar queries.
    """

    async def belonging_to_at_once(
        self, stream: str, field: str, owners: Collection[str], *, account_id: str = ""
    ) -> Collection[tuple[str, str]]:
        """Return the same as ``StoredRows.belonging_to``, without any preparation."""


class StoredRowsKeeper(Protocol[ConfigT_contra]):
    """Destination whose records can be queried.

    Required of a destination whose spec sets ``supports_reconcile``.
    """

    def stored_rows(
        self, config: ConfigT_contra, streams: Sequence[SelectedStream]
    ) -> AbstractAsyncContextManager[StoredRows]:
        """Return queries for the rows of ``streams``, usable until closed, also during a write.

        Opening them connects to nothing; the first query does. Results include every record that
        ``write`` has yielded. A query raises the same errors as ``write``.
        """
