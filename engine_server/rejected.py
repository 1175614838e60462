"""Records that a destination rejected and keeps, written once more."""

from collections.abc import Sequence

import structlog

from engine_server.connectors.protocols import (
    RejectedRecordKeeper,
    RetryResult,
    SelectedStream,
)
from engine_server.errors import ConnectionFailed, ConnectorError, RejectedNotKept
from engine_server.pipeline import ResolvedDestination

log = structlog.get_logger()


async def retry_rejected(
    destination: ResolvedDestination, streams: Sequence[SelectedStream]
) -> RetryResult:
    """Writes what the destination rejected once more.

    Raises:
        RejectedNotKept: The destination keeps no rejected records.
    """
    connector: object = destination.connector
    if not isinstance(connector, RejectedRecordKeeper):
        raise RejectedNotKept(f"the destination {destination.type!r} keeps no rejected records")
    result = await connector.retry_rejected(destination.config, streams)
    log.info(
        "rejected_records_retried",
        retried=result.retried,
        written=result.written,
        rejected=result.rejected,
    )
    return result


async def retry_before_reconcile(
    destination: ResolvedDestination, streams: Sequence[SelectedStream]
) -> None:
    """Writes them where the destination keeps any, so that what is read is compared with them."""
    try:
        await retry_rejected(destination, streams)
    except RejectedNotKept:
        return
    except ConnectionFailed:
        raise
    except ConnectorError as error:
        # It is the fault of one stream, which the run itself reports.
        log.warning("rejected_records_not_retried", error=error.message)
