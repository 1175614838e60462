"""Listing and replay of the webhook events in the inbox."""

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync_rpc.errors import FieldViolation
from pipesync_server.request_check import check_request
from service_server import checks
from service_server.errors import InvalidRequest, Violations, WebhookEventNotFound
from service_server.pipelines import paging
from service_server.pipelines.pipelines import Pipelines
from service_server.store import inbox, lifecycles
from service_server.store.database import Database
from service_server.webhooks.event import is_event_id

# Digits of a position, which is a number of 64 bits.
_MOST_DIGITS = 19


class WebhookEvents:
    """Lists and replays webhook events."""

    def __init__(self, database: Database, pipelines: Pipelines) -> None:
        self._database = database
        self._pipelines = pipelines

    async def list_page(self, request: pb.ListWebhookEventsRequest) -> pb.ListWebhookEventsResponse:
        """Return a page of a pipeline's events, the latest arrival first.

        Raises:
            InvalidRequest: A field is invalid.
            PipelineNotFound: There is no such pipeline.
            StoreUnavailable: The database is unavailable.
        """
        violations = Violations(await check_request(request))
        with violations.collect():
            checks.check_pipeline_id(request.pipeline_id)
        with violations.collect():
            size = paging.page_size(request.page_size)
        with violations.collect():
            before = _position(request.page_token) if request.page_token else None
        violations.raise_if_any()
        await self._pipelines.load(request.pipeline_id)
        async with self._database.connection() as connection:
            found = await inbox.list_latest_first(
                connection, request.pipeline_id, size + 1, status=request.status, before=before
            )
        page = found[: min(size, paging.fitting([event for _, event in found]))]
        token = paging.page_token(str(page[-1][0])) if len(found) > len(page) else ""
        return pb.ListWebhookEventsResponse(
            events=[event for _, event in page], next_page_token=token
        )

    async def replay(
        self, request: pb.ReplayWebhookEventsRequest
    ) -> pb.ReplayWebhookEventsResponse:
        """Schedule events to be applied again.

        Raises:
            InvalidRequest: A field is invalid.
            PipelineNotFound: There is no such pipeline.
            WebhookEventNotFound: The pipeline lacks one of the events; none is replayed.
            StoreUnavailable: The database is unavailable.
        """
        violations = Violations(await check_request(request))
        with violations.collect():
            checks.check_pipeline_id(request.pipeline_id)
        with violations.collect():
            violations.skip_if_invalid("event_ids")
            ids = list(dict.fromkeys(request.event_ids))
            _check_choice(ids, request.all_dead_lettered)
        violations.raise_if_any()
        await self._pipelines.load(request.pipeline_id)
        async with self._database.transaction() as connection:
            if request.all_dead_lettered:
                count = await inbox.replay_dead_lettered(connection, request.pipeline_id)
            else:
                missing = await inbox.missing(connection, request.pipeline_id, ids)
                if missing:
                    raise WebhookEventNotFound(request.pipeline_id, missing)
                count = await inbox.replay(connection, request.pipeline_id, ids)
            # The next step of a continuous pipeline may not be due for a long time.
            await lifecycles.wake(connection, request.pipeline_id)
        return pb.ReplayWebhookEventsResponse(replayed_count=count)


def _check_choice(ids: list[str], all_dead_lettered: bool) -> None:
    if all_dead_lettered and ids:
        raise InvalidRequest([FieldViolation("event_ids", "must be empty with all_dead_lettered")])
    if not all_dead_lettered and not ids:
        raise InvalidRequest(
            [FieldViolation("event_ids", "must name an event, unless all_dead_lettered is set")]
        )
    if any(not is_event_id(event_id) for event_id in ids):
        raise InvalidRequest([FieldViolation("event_ids", "must be ids of events")])


def _position(token: str) -> int:
    [position] = paging.parse_page_token(token, 1)
    is_number = position.isascii() and position.isdecimal() and len(position) <= _MOST_DIGITS
    if not is_number or int(position) >= 2**63:
        raise paging.bad_page_token()
    return int(position)
