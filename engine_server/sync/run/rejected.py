"""Retries of the records that a destination rejected and kept."""

from collections.abc import Sequence

import structlog

from engine_server.connectors.protocols import (
    RejectedRecordKeeper,
    RetryResult,
    SelectedStream,
)
from engine_server.errors import ConnectionFailed, ConnectorError, RejectedNotKept
from engine_server.sync.checks.resolution import ResolvedDestination

_log = structlog.get_logger(__name__)


async def retry_rejected(
    destination: ResolvedDestination, streams: Sequence[SelectedStream]
) -> RetryResult:
    """Retry the destination's rejected records.

    Raises:
        RejectedNotKept: The destination keeps no rejected records.
    """
    connector: object = destination.connector
    if not isinstance(connector, RejectedRecordKeeper):
        raise RejectedNotKept(f"the destination {destination.type!r} keeps no rejected records")
    result = await connector.retry_rejected(destination.config, streams)
    _log.info(
        "rejected_records_retried",
        retried=result.retried,
        written=result.written,
        rejected=result.rejected,
    )
    return result


async def retry_before_reconcile(
    destination: ResolvedDestination, streams: Sequence[SelectedStream]
) -> None:
    """Retry rejected records before a reconcile, so that it compares them as well."""
    try:
        await retry_rejected(destination, streams)
    except RejectedNotKept:
        return
    except ConnectionFailed:
        raise
    except ConnectorError as error:
        # The cause is a single stream, which the run itself reports.
        _log.warning("rejected_records_not_retried", error=error.message)
