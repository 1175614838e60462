"""Answers of the engine to the applier, and reads of the events' outcomes."""

from collections.abc import Awaitable, Callable

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.progress_pb2 import RUN_STATUS_FAILED, RUN_STATUS_SUCCEEDED, StreamProgress
from pipesync.v1.state_pb2 import Eof
from service_server.store import inbox
from service_server.store.database import Database
from tests.service_server.webhooks.deliveries import event_id

LEASE_TAKEN_OVER = "UPDATE pipesync.applier_leases SET token = token + 1000"
Batch = Callable[[engine_pb.PipelineSyncBatchRequest], Awaitable[Eof]]


async def kept(database: Database) -> dict[str, tuple[str, int, str]]:
    """Return each event's status, failed attempts and last error, the first arrival first."""
    async with database.connection() as connection:
        found = await inbox.list_latest_first(
            connection,
            "hooked",
            1000,
            status=pb.WEBHOOK_EVENT_STATUS_UNSPECIFIED,
            before=None,
        )
    prefix = "WEBHOOK_EVENT_STATUS_"
    return {
        one.id: (
            pb.WebhookEventStatus.Name(one.status).removeprefix(prefix).lower(),
            one.failed_attempt_count,
            one.last_error,
        )
        for _, one in reversed(found)
    }


async def words(database: Database) -> list[str]:
    return [word for word, _, _ in (await kept(database)).values()]


def refuses(*failing: str) -> Batch:
    """Return a batch whose destination refuses a record of these events."""

    async def batch(request: engine_pb.PipelineSyncBatchRequest) -> Eof:
        given = {event_id(one.event_json) for one in request.inputs}
        eof = Eof(status=RUN_STATUS_SUCCEEDED, ending_state=request.options.state)
        if given & set(failing):
            eof.status = RUN_STATUS_FAILED
            stream = eof.run_progress.streams["customers"]
            stream.status = StreamProgress.STATUS_ERRORED
            stream.message = "the record is refused"
        return eof

    return batch


def names(*failing: str) -> Batch:
    """Return a batch that names the events that failed, and applies the others."""

    async def batch(request: engine_pb.PipelineSyncBatchRequest) -> Eof:
        eof = Eof(status=RUN_STATUS_SUCCEEDED, ending_state=request.options.state)
        for given in request.inputs:
            if event_id(given.event_json) in failing:
                eof.status = RUN_STATUS_FAILED
                eof.failure_message = "events failed"
                eof.dead_letters.add(
                    event_id=event_id(given.event_json), reason="Stripe refuses it", attempt_count=1
                )
        return eof

    return batch


def answers(**fields: object) -> Batch:
    async def batch(request: engine_pb.PipelineSyncBatchRequest) -> Eof:
        eof = Eof(**fields)  # type: ignore[arg-type]  # any field of the message
        eof.ending_state.CopyFrom(request.options.state)
        return eof

    return batch


def meanwhile(database: Database, statement: str, **fields: object) -> Batch:
    """Return a batch that executes a statement in the service's database during the call."""
    answer = answers(**fields)

    async def batch(request: engine_pb.PipelineSyncBatchRequest) -> Eof:
        async with database.connection() as connection:
            await connection.execute(statement)
        return await answer(request)

    return batch
