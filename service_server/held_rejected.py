"""How many rejected records a pipeline's destination keeps, as its syncs tell."""

from pipesync.v1.progress_pb2 import RunStatus
from pipesync.v1.state_pb2 import Eof
from service_server.store import pipelines
from service_server.store.database import Connection


def is_exact(eof: Eof) -> bool:
    """Whether its count of held records is; a sync that broke off may not have come to count."""
    return not eof.has_more and eof.status != RunStatus.RUN_STATUS_FAILED


def held_after(eof: Eof, before: int) -> int:
    """How many records are held after a sync, as far as is known."""
    held = eof.held_rejected_record_count
    return held if is_exact(eof) else max(held, before)


async def store_held(connection: Connection, pipeline_id: str, eof: Eof) -> None:
    """Stores how many records are held after a sync."""
    await pipelines.set_held_rejected(
        connection, pipeline_id, eof.held_rejected_record_count, is_exact=is_exact(eof)
    )


def describe_held(count: int) -> str:
    """The count as a sentence of a pipeline's status; empty when there are none."""
    if not count:
        return ""
    records = "record is" if count == 1 else "records are"
    return (
        f"{count:,} {records} rejected by the destination, which keeps them and says why: "
        "retry_rejected writes them once more"
    )
