"""Basis of a call: the pipeline and the state that it continues from."""

from dataclasses import dataclass

from service_server.pipelines.pipelines import Pipelines
from service_server.store import states
from service_server.store.database import Database
from service_server.store.pipelines import StoredPipeline
from service_server.store.states import StoredState


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncBasis:
    """A pipeline and the state that its next call continues from.

    Attributes:
        stored: The stored pipeline.
        state: The stored state, with the position of the inputs.
    """

    stored: StoredPipeline
    state: StoredState

    @property
    def pipeline_id(self) -> str:
        """Id of the pipeline."""
        return self.stored.pipeline.id


class BasisLoader:
    """Loads the bases of calls."""

    def __init__(self, pipelines: Pipelines, database: Database) -> None:
        self._pipelines = pipelines
        self._database = database

    async def load(self, pipeline_id: str) -> SyncBasis:
        """Return the basis of a pipeline's next call.

        Raises:
            PipelineNotFound: There is no such pipeline.
            StoreUnavailable: The database is unavailable.
        """
        stored = await self._pipelines.load(pipeline_id)
        async with self._database.connection() as connection:
            return SyncBasis(stored=stored, state=await states.load(connection, pipeline_id))
