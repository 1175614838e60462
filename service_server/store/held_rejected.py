"""Count of the rejected records that a pipeline's destination holds, by its latest syncs."""

from pipesync.v1.progress_pb2 import RunStatus
from pipesync.v1.state_pb2 import Eof
from service_server.store import pipelines
from service_server.store.database import Connection


def is_exact(eof: Eof) -> bool:
    """Return whether the count is exact: a sync that was cut off may not have counted."""
    return not eof.has_more and eof.status != RunStatus.RUN_STATUS_FAILED


def held_after(eof: Eof, before: int) -> int:
    """Return the known count of held records after a sync."""
    held = eof.held_rejected_record_count
    return held if is_exact(eof) else max(held, before)


async def store_held(connection: Connection, pipeline_id: str, eof: Eof) -> None:
    """Store the count of held records after a sync."""
    await pipelines.set_held_rejected(
        connection, pipeline_id, eof.held_rejected_record_count, is_exact=is_exact(eof)
    )


def describe_held(count: int) -> str:
    """Return a sentence for the pipeline's status; empty if no records are held."""
    if not count:
        return ""
    records = "record is" if count == 1 else "records are"
    return (
        f"{count:,} {records} rejected by the destination, which keeps them and says why: "
        "retry_rejected writes them once more"
    )
