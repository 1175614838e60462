"""Pages of pipelines and of their runs."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync_server.request_check import check_request
from service_server import checks
from service_server.errors import PipelineNotFound, Violations
from service_server.pipelines import paging
from service_server.store import pipelines, runs
from service_server.store.database import Database


class PipelineListing:
    """Lists the pipelines of this service, and the runs of each."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_page(
        self, request: pb.ListPipelinesRequest, *, prefix: str = ""
    ) -> pb.ListPipelinesResponse:
        """Return a page of the pipelines whose ids begin with ``prefix``, ordered by id."""
        violations = Violations(await check_request(request))
        with violations.collect():
            size = paging.page_size(request.page_size)
        with violations.collect():
            after = _pipeline_position(request.page_token) if request.page_token else ""
        violations.raise_if_any()
        async with self._database.connection() as connection:
            found, more = await pipelines.list_after(connection, after, size, prefix=prefix)
        page = [shown_pipeline(pipeline) for pipeline in found]
        return pb.ListPipelinesResponse(
            pipelines=page, next_page_token=paging.page_token(page[-1].id) if more else ""
        )

    async def list_runs(self, request: pb.ListRunsRequest) -> pb.ListRunsResponse:
        """Return a page of a pipeline's runs, the newest first."""
        violations = Violations(await check_request(request))
        with violations.collect():
            checks.check_pipeline_id(request.pipeline_id)
        with violations.collect():
            size = paging.page_size(request.page_size)
        with violations.collect():
            after = _run_position(request.page_token) if request.page_token else None
        violations.raise_if_any()
        async with self._database.connection() as connection:
            if await pipelines.get(connection, request.pipeline_id) is None:
                raise PipelineNotFound(request.pipeline_id)
        async with self._database.connection() as connection:
            page, more = await runs.list_newest_first(
                connection, request.pipeline_id, size, after=after
            )
        token = ""
        if more:
            token = paging.page_token(page[-1].start_time.ToJsonString(), page[-1].run_id)
        return pb.ListRunsResponse(runs=page, next_page_token=token)


def shown_pipeline(pipeline: pb.Pipeline) -> pb.Pipeline:
    """Return the pipeline with its status set to PAUSED or TEARDOWN where that is desired."""
    if pipeline.desired_status == pb.DESIRED_STATUS_PAUSED:
        pipeline.status = pb.PIPELINE_STATUS_PAUSED
    elif pipeline.desired_status == pb.DESIRED_STATUS_DELETED:
        pipeline.status = pb.PIPELINE_STATUS_TEARDOWN
    return pipeline


def _pipeline_position(token: str) -> str:
    [pipeline_id] = paging.parse_page_token(token, 1)
    if not checks.is_pipeline_id(pipeline_id):
        raise paging.bad_page_token()
    return pipeline_id


def _run_position(token: str) -> tuple[datetime, str]:
    started, run_id = paging.parse_page_token(token, 2)
    start_time = Timestamp()
    try:
        start_time.FromJsonString(started)
        return start_time.ToDatetime(tzinfo=UTC), run_id
    except (ValueError, OverflowError):
        raise paging.bad_page_token() from None
