"""Deletion marks of pipelines in the store.

A deletion first marks its pipeline, so that no sync, step or setup begins. Then it waits for the
lease, and stores its fencing token. From then on the mark belongs to the holder of the lease: other
deletions do not clear it, and the pipeline cannot be changed. A mark without a fencing token is
that of a deletion that waits or was interrupted.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pipesync.v1.pipeline_service_pb2 import DESIRED_STATUS_DELETED
from service_server.errors import PipelineNotFound, PlanOutdated
from service_server.leases.lease import Lease
from service_server.store import lifecycles, pipelines
from service_server.store.database import Database


class Deletions:
    """Marks pipelines that are to be deleted, and clears the mark if the deletion fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def marked(self, pipeline_id: str) -> AsyncIterator[None]:
        """Mark the pipeline during the body, which waits for the lease.

        If the body fails, a mark that was set here is cleared, unless another deletion is under way
        by then. A mark that existed before stays.
        """
        async with self._database.transaction() as connection:
            is_marked_here = await pipelines.mark_deleted(connection, pipeline_id)
        try:
            yield
        except BaseException:
            if is_marked_here:
                async with self._database.transaction() as connection:
                    locked = await pipelines.lock(connection, pipeline_id)
                    if locked is not None and locked.deleter is None:
                        await pipelines.unmark_deleted(connection, pipeline_id)
                        await lifecycles.wake(connection, pipeline_id)
            raise

    @asynccontextmanager
    async def under_way(self, lease: Lease, *, unless_changed_from: str) -> AsyncIterator[None]:
        """Give the mark to the lease during the body; clear it if the body fails.

        Args:
            lease: The lease of the pipeline.
            unless_changed_from: The pipeline's etag when it was marked.

        Raises:
            PipelineNotFound: The pipeline was deleted meanwhile.
            PlanOutdated: An update cleared the mark, to keep the pipeline.
            LeaseLost: Another process may work on the pipeline by now.
        """
        pipeline_id, token = lease.pipeline_id, lease.token
        async with lease.transaction() as connection:
            locked = await pipelines.lock(connection, pipeline_id)
            if locked is None:
                raise PipelineNotFound(pipeline_id)
            if locked.desired_status != DESIRED_STATUS_DELETED:
                # Another deletion that failed clears the mark without a new etag.
                if locked.etag != unless_changed_from:
                    raise PlanOutdated(pipeline_id)
                await pipelines.mark_deleted(connection, pipeline_id)
            await pipelines.begin_deletion(connection, pipeline_id, token)
        try:
            yield
        except BaseException:
            async with self._database.transaction() as connection:
                await pipelines.unmark_deleted(connection, pipeline_id, token)
                await lifecycles.wake(connection, pipeline_id)
            raise
