"""Shows the webhook events that came in, and has them applied again."""

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync_rpc.errors import FieldViolation
from service_server import checks, paging
from service_server.errors import InvalidRequest, WebhookEventNotFound
from service_server.pipelines import Pipelines
from service_server.store import inbox, lifecycles
from service_server.store.database import Database

_MOST_IDS = 1000


class WebhookEvents:
    """The inbox as people see it."""

    def __init__(self, database: Database, pipelines: Pipelines) -> None:
        self._database = database
        self._pipelines = pipelines

    async def list_page(self, request: pb.ListWebhookEventsRequest) -> pb.ListWebhookEventsResponse:
        """One page of a pipeline's events, the latest arrival first.

        Raises:
            InvalidRequest: names the bad field.
            PipelineNotFound: there is no such pipeline.
            StoreUnavailable: the database is away.
        """
        checks.check_pipeline_id(request.pipeline_id)
        if request.status not in pb.WebhookEventStatus.values():
            raise InvalidRequest([FieldViolation("status", "must be a status of the contract")])
        size = paging.page_size(request.page_size)
        before = _place(request.page_token) if request.page_token else None
        await self._pipelines.load(request.pipeline_id)
        async with self._database.connection() as connection:
            found = await inbox.list_latest_first(
                connection, request.pipeline_id, size + 1, status=request.status, before=before
            )
        page = found[:size]
        token = paging.page_token(str(page[-1][0])) if len(found) > size else ""
        return pb.ListWebhookEventsResponse(
            events=[event for _, event in page], next_page_token=token
        )

    async def replay(
        self, request: pb.ReplayWebhookEventsRequest
    ) -> pb.ReplayWebhookEventsResponse:
        """Has events applied again.

        Raises:
            InvalidRequest: names the bad field.
            PipelineNotFound: there is no such pipeline.
            WebhookEventNotFound: it has no such event; none is applied again.
            StoreUnavailable: the database is away.
        """
        checks.check_pipeline_id(request.pipeline_id)
        ids = list(dict.fromkeys(request.event_ids))
        _check_choice(ids, request.all_set_aside)
        await self._pipelines.load(request.pipeline_id)
        async with self._database.transaction() as connection:
            if request.all_set_aside:
                count = await inbox.replay_set_aside(connection, request.pipeline_id)
            else:
                missing = await inbox.missing(connection, request.pipeline_id, ids)
                if missing:
                    raise WebhookEventNotFound(request.pipeline_id, missing)
                count = await inbox.replay(connection, request.pipeline_id, ids)
            # One that runs by itself may not be due for long.
            await lifecycles.wake(connection, request.pipeline_id)
        return pb.ReplayWebhookEventsResponse(replayed_count=count)


def _check_choice(ids: list[str], all_set_aside: bool) -> None:
    if all_set_aside and ids:
        raise InvalidRequest([FieldViolation("event_ids", "must be empty with all_set_aside")])
    if not all_set_aside and not ids:
        raise InvalidRequest(
            [FieldViolation("event_ids", "must name an event, unless all_set_aside is set")]
        )
    if len(ids) > _MOST_IDS:
        raise InvalidRequest(
            [FieldViolation("event_ids", f"must be at most {_MOST_IDS}: replay in several calls")]
        )
    if any("\0" in event_id for event_id in ids):
        raise InvalidRequest([FieldViolation("event_ids", "must be ids of events")])


def _place(token: str) -> int:
    [place] = paging.parse_page_token(token, 1)
    if not place.isdecimal() or int(place) >= 2**63:
        raise paging.bad_page_token()
    return int(place)
