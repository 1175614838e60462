"""Commands that observe pipelines."""

import json
from datetime import UTC, datetime

from google.rpc import code_pb2

from pipesync.v1 import pipeline_service_pb2 as contract
from pipesync.v1.progress_pb2 import (
    RUN_STATUS_FAILED,
    RUN_STATUS_STARTED,
    Progress,
    StreamProgress,
)
from pipesync_rpc.errors import RpcError
from tests.pipesync_cli.program import pipelines_of
from tests.pipesync_cli.scripted_service import scripted_service
from tests.pipesync_cli.test_pipelines import stored


def seen(
    status: contract.PipelineStatus.ValueType, why: str = "", records: int = 0
) -> contract.Pipeline:
    """Return the pipeline as a watch shows it."""
    pipeline = stored()
    pipeline.status, pipeline.status_message = status, why
    if records:
        derived = Progress.Derived(status=RUN_STATUS_STARTED, total_record_count=records)
        stream = StreamProgress(status=StreamProgress.STATUS_STARTED, record_count=records)
        pipeline.progress.CopyFrom(Progress(derived=derived, streams={"customers": stream}))
    return pipeline


def deleted() -> RpcError:
    return RpcError("there is no pipeline 'orders'", code=code_pb2.NOT_FOUND)


CHANGES = [
    seen(contract.PIPELINE_STATUS_BACKFILL),
    seen(contract.PIPELINE_STATUS_BACKFILL, records=1500),
    seen(contract.PIPELINE_STATUS_ERROR, "sync failed once:\nno route", records=1500),
]


async def test_watch_reports_status_and_reason_until_the_pipeline_is_deleted() -> None:
    service = scripted_service()
    service.watch = [*CHANGES, deleted()]
    outcome = await pipelines_of(service, "watch", "orders")
    assert outcome.code == 0
    assert outcome.lines == ["orders: backfill", "orders: error: sync failed once: no route"]
    assert "orders: customers started, 1,500 records" in outcome.stderr
    assert outcome.stderr.endswith("orders was deleted\n")


async def test_watch_raw_prints_every_change_as_json() -> None:
    service = scripted_service()
    service.watch = [*CHANGES, deleted()]
    outcome = await pipelines_of(service, "watch", "orders", "--raw")
    printed = [json.loads(line) for line in outcome.lines]
    assert [one["status"] for one in printed] == ["backfill", "backfill", "error"]
    assert printed[1]["progress"]["derived"]["total_record_count"] == 1500


async def test_watch_resumes_when_the_service_is_available_again() -> None:
    service = scripted_service()
    stopping = RpcError("the service is stopping", code=code_pb2.UNAVAILABLE)
    service.watch = [CHANGES[0], stopping, *CHANGES, deleted()]
    outcome = await pipelines_of(service, "watch", "orders")
    assert outcome.code == 0
    assert outcome.lines == ["orders: backfill", "orders: error: sync failed once: no route"]


async def test_watch_of_a_missing_pipeline_is_an_error() -> None:
    service = scripted_service()
    service.watch = [deleted()]
    outcome = await pipelines_of(service, "watch", "orders")
    assert (outcome.code, outcome.stdout) == (1, "")
    assert outcome.stderr == "Error: there is no pipeline 'orders'\n"


def run(number: int) -> contract.Run:
    made = contract.Run(run_id=f"r{number}", pipeline_id="orders", status=RUN_STATUS_STARTED)
    made.start_time.FromDatetime(datetime(2026, 1, number, tzinfo=UTC))
    made.progress.derived.total_record_count = 1000 * number
    return made


async def test_runs_are_listed_newest_first() -> None:
    service = scripted_service()
    failed = run(1)
    failed.status, failed.failure_message = RUN_STATUS_FAILED, "no\nroute"
    failed.end_time.FromDatetime(datetime(2026, 1, 1, 0, 1, 30, tzinfo=UTC))
    service.runs = [run(2), failed]
    outcome = await pipelines_of(service, "runs", "orders")
    assert outcome.code == 0
    head, first, second = (line.split("  ") for line in outcome.lines)
    assert head[0] == "RUN"
    assert [cell.strip() for cell in first if cell] == [
        *("r2", "started", "2026-01-02 00:00:00", "running", "2,000 records"),
    ]
    assert [cell.strip() for cell in second if cell] == [
        *("r1", "failed", "2026-01-01 00:00:00", "90.0 s", "1,000 records", "no route"),
    ]


async def test_runs_are_fetched_page_by_page_up_to_a_limit() -> None:
    service = scripted_service()
    service.runs = [run(number) for number in range(9, 0, -1)]
    outcome = await pipelines_of(service, "runs", "orders", "--limit", "3", "--raw")
    printed = [json.loads(line) for line in outcome.lines]
    assert [one["run_id"] for one in printed] == ["r9", "r8", "r7"]
    assert len(service.requests) == 2
