"""The command reconcile."""

import json

from pipesync.v1.progress_pb2 import RowCounts
from pipesync.v1.state_pb2 import Eof
from tests.pipesync_cli.program import pipelines_of
from tests.pipesync_cli.scripted_service import scripted_service
from tests.pipesync_cli.test_sync import batch_requests, done, failed, more


def reconciled() -> Eof:
    """Return the end of a finished run that changed rows of one of two streams."""
    eof = done()
    rows = RowCounts(inserted=1, updated=20, unchanged=1_200, deleted=13)
    eof.run_progress.streams["customers"].rows.CopyFrom(rows)
    eof.run_progress.streams["plans"].record_count = 5
    eof.run_progress.streams["plans"].rows.unchanged = 5
    return eof


async def test_reconcile_repeats_calls_and_reports_the_changes() -> None:
    service = scripted_service()
    service.ends = [more(), more(), reconciled()]
    outcome = await pipelines_of(service, "reconcile", "orders", "--time-limit", "9")
    assert outcome.code == 0
    requests = batch_requests(service)
    assert len(requests) == 3
    assert all(request == requests[0] for request in requests)
    assert requests[0].reconcile
    assert requests[0].time_limit.ToSeconds() == 9
    [changed, total] = outcome.lines
    assert changed == "customers: 1,234 records (1 new, 20 changed, 13 deleted)"
    assert total.startswith("succeeded, ")
    # After an interrupt, the user knows how to resume.
    assert f"--run-id {requests[0].run_id}" in outcome.stderr.splitlines()[0]


async def test_reconcile_resumes_a_run() -> None:
    service = scripted_service()
    service.ends = [done()]
    outcome = await pipelines_of(
        service, "reconcile", "orders", "--run-id", "reconcile-1", "--state-limit", "7"
    )
    assert outcome.code == 0
    [request] = batch_requests(service)
    assert (request.run_id, request.state_limit, request.reconcile) == ("reconcile-1", 7, True)


async def test_raw_prints_one_json_object_a_call_and_nothing_else() -> None:
    service = scripted_service()
    service.ends = [more(), reconciled()]
    outcome = await pipelines_of(service, "reconcile", "orders", "--raw")
    assert [json.loads(line)["status"] for line in outcome.lines] == ["started", "succeeded"]
    assert outcome.stderr == ""


async def test_a_failure_is_reported_and_sets_the_exit_code() -> None:
    service = scripted_service()
    service.ends = [failed()]
    outcome = await pipelines_of(service, "reconcile", "orders")
    assert outcome.code == 1
    assert "Error: customers: value too long\n" in outcome.stderr
