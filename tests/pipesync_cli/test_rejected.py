"""Rejected records on the command line: warnings, exit codes, and retry_rejected."""

import json

import pytest

from pipesync.v1 import pipeline_service_pb2 as contract
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import (
    RUN_STATUS_SUCCEEDED,
    Progress,
    RowCounts,
    StreamProgress,
)
from pipesync.v1.state_pb2 import Eof
from tests.pipesync_cli.program import pipelines_of
from tests.pipesync_cli.scripted_service import scripted_service


def _rejected(count: int = 2, held: int = 2) -> Eof:
    """Return the end of a successful run whose destination rejected records."""
    stream = StreamProgress(
        status=StreamProgress.STATUS_COMPLETED,
        record_count=10,
        rows=RowCounts(inserted=10 - count, rejected=count),
        rejected_record_count=count,
    )
    progress = Progress(
        derived=Progress.Derived(
            status=RUN_STATUS_SUCCEEDED,
            total_record_count=10,
            total_rows=stream.rows,
            total_rejected_record_count=count,
        ),
        streams={"customers": stream},
    )
    return Eof(status=RUN_STATUS_SUCCEEDED, run_progress=progress, held_rejected_record_count=held)


@pytest.mark.parametrize(
    "arguments",
    [("sync",), ("sync_batch",), ("reconcile",), ("simulate_webhook_sync",)],
    ids=lambda arguments: str(arguments[0]),
)
@pytest.mark.parametrize("raw", [False, True])
async def test_every_sync_warns_of_rejected_records_and_exits_1(
    arguments: tuple[str, ...], raw: bool
) -> None:
    service = scripted_service()
    service.ends = [_rejected()]
    service.messages = [Message(eof=_rejected())]
    flags = ["--raw"] if raw else []
    outcome = await pipelines_of(service, *arguments, "orders", *flags)
    assert outcome.code == 1
    [warning] = [line for line in outcome.stderr.splitlines() if line.startswith("Warning: ")]
    assert warning == (
        "Warning: customers: the destination rejected 2 records. The table _pipesync_rejected in "
        "its schema gives the reasons; after fixing them, run pipelines retry_rejected orders"
    )
    if raw:
        [printed] = [json.loads(line) for line in outcome.lines]
        eof = printed.get("eof", printed)
        assert eof["held_rejected_record_count"] == 2
    else:
        assert outcome.lines[-1].startswith("succeeded, 10 records (8 new, 2 rejected)")


async def test_a_sync_warns_of_records_that_were_rejected_earlier() -> None:
    service = scripted_service()
    service.ends = [_rejected(count=0, held=1)]
    outcome = await pipelines_of(service, "sync_batch", "orders")
    assert outcome.code == 1
    assert "Warning: the destination keeps 1 record that it rejected." in outcome.stderr
    service.ends = [_rejected(count=0, held=0)]
    outcome = await pipelines_of(service, "sync_batch", "orders")
    assert outcome.code == 0
    assert "Warning" not in outcome.stderr


@pytest.mark.parametrize("name", ["retry_rejected", "retry-rejected"])
async def test_a_retry_reports_its_result(name: str) -> None:
    service = scripted_service()
    service.retried = contract.RetryRejectedRecordsResponse(
        retried_record_count=5, written_record_count=4, rejected_record_count=0
    )
    outcome = await pipelines_of(service, name, "orders")
    assert outcome.code == 0
    assert outcome.stdout == "5 records retried: 4 written, 1 outdated, 0 rejected\n"
    assert outcome.stderr == ""
    assert service.requests == [contract.RetryRejectedRecordsRequest(pipeline_id="orders")]


@pytest.mark.parametrize("raw", [False, True])
async def test_a_retry_that_leaves_some_exits_1(raw: bool) -> None:
    service = scripted_service()
    service.retried = contract.RetryRejectedRecordsResponse(
        retried_record_count=1, rejected_record_count=1
    )
    outcome = await pipelines_of(service, "retry_rejected", "orders", *(["--raw"] if raw else []))
    assert outcome.code == 1
    assert outcome.stderr.startswith("Warning: the destination still rejects 1 record.")
    if raw:
        assert json.loads(outcome.stdout)["rejected_record_count"] == 1
