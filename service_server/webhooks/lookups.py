"""Look-ups of the pipelines of deliveries, batched into one query at a time."""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Iterable

from service_server.errors import TooManyDeliveries
from service_server.store import pipelines
from service_server.store.database import Database
from service_server.store.pipelines import StoredConfig

# Seconds between the beginnings of two queries.
_INTERVAL = 0.05
# Concurrent callers; each holds a delivery in memory.
_MOST_WAITING = 1000
# Seconds for which the absence of a pipeline is cached, and the number of such entries.
_ABSENCE_LASTS = 5.0
_MOST_ABSENT = 10_000


class _Batch:
    """Pipelines that one query looks up.

    Attributes:
        known: The pipelines' ids, with the etags that the callers know; empty for none.
        found: The result; None before the query has ended.
        error: The error of a failed query.
    """

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self.found: dict[str, StoredConfig] | None = None
        self.error: Exception | None = None


class Lookups:
    """Looks up the pipelines of deliveries that cannot be verified from memory.

    Anyone can send such deliveries. Any number of them takes one connection and at most 20 queries
    a second, and each is answered by a query that began after its arrival. The absence of a
    pipeline is cached for some seconds, unless the pipeline is created meanwhile.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        # Time at which each absent id is looked up again.
        self._absent: OrderedDict[str, float] = OrderedDict()
        self._changes = 0
        self._gathering = _Batch()
        self._querying = asyncio.Lock()
        self._waiting = 0
        self._next_query = 0.0

    def note_change(self, pipeline_id: str | None) -> None:
        """Record that a pipeline was changed or created; None means that any may have been."""
        self._changes += 1
        if pipeline_id is None:
            self._absent.clear()
        else:
            self._absent.pop(pipeline_id, None)

    async def find(self, pipeline_id: str, known_etag: str) -> StoredConfig | None:
        """Return the configuration that is stored now; None if there is no such pipeline.

        Args:
            pipeline_id: The pipeline.
            known_etag: The etag of the configuration that the caller has; empty for none.

        Raises:
            TooManyDeliveries: Too many callers are waiting.
            StoreUnavailable: The database is unavailable.
        """
        if self._absent.get(pipeline_id, -math.inf) > asyncio.get_running_loop().time():
            return None
        if self._waiting >= _MOST_WAITING:
            raise TooManyDeliveries
        batch = self._gathering
        if batch.known.setdefault(pipeline_id, known_etag) != known_etag:
            # Two callers know different etags: at least one of them needs the configuration.
            batch.known[pipeline_id] = ""
        self._waiting += 1
        try:
            async with self._querying:
                if batch.found is None and batch.error is None:
                    await self._query(batch)
        finally:
            self._waiting -= 1
        if batch.found is None:
            assert batch.error is not None  # noqa: S101 - for the type checker
            raise batch.error
        return batch.found.get(pipeline_id)

    async def _query(self, batch: _Batch) -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(self._next_query - clock())
        if batch is self._gathering:
            self._gathering = _Batch()
        self._next_query = clock() + _INTERVAL
        changes = self._changes
        try:
            async with self._database.connection() as connection:
                batch.found = await pipelines.changed_configs(connection, batch.known)
        except Exception as error:
            batch.error = error
        else:
            if changes == self._changes:
                self._remember(batch.known.keys() - batch.found.keys(), clock() + _ABSENCE_LASTS)

    def _remember(self, absent: Iterable[str], expiry: float) -> None:
        for pipeline_id in absent:
            self._absent[pipeline_id] = expiry
            self._absent.move_to_end(pipeline_id)
        while len(self._absent) > _MOST_ABSENT:
            self._absent.popitem(last=False)
