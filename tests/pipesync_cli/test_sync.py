"""The commands sync and sync_batch."""

import asyncio
import json
import os
import signal
import sys

import pytest

from pipesync.v1 import pipeline_service_pb2 as contract
from pipesync.v1.message_pb2 import Log, Message, StateCheckpoint
from pipesync.v1.progress_pb2 import (
    RUN_STATUS_FAILED,
    RUN_STATUS_STARTED,
    RUN_STATUS_SUCCEEDED,
    ConnectionStatus,
    Progress,
    RunStatus,
    StreamProgress,
)
from pipesync.v1.state_pb2 import Eof, SourceState, SyncRun, SyncState
from tests.pipesync_cli.program import pipelines, pipelines_of
from tests.pipesync_cli.scripted_service import ScriptedService, scripted_service, serving

LARGE = 2**53 + 1


def progress(
    status: RunStatus.ValueType,
    stream_status: StreamProgress.Status.ValueType = StreamProgress.STATUS_STARTED,
    message: str = "",
) -> Progress:
    """Return the progress of one stream."""
    return Progress(
        elapsed_ms=12_300,
        global_state_count=1,
        derived=Progress.Derived(
            status=status, total_record_count=LARGE, total_state_count=9, records_per_second=10.4
        ),
        streams={
            "customers": StreamProgress(
                status=stream_status, record_count=1234, state_count=9, message=message
            )
        },
    )


def more() -> Eof:
    """Return the end of a call that stopped at a limit."""
    return Eof(
        status=RUN_STATUS_STARTED,
        has_more=True,
        run_progress=progress(RUN_STATUS_STARTED),
        ending_state=SyncState(
            source=SourceState(streams={"customers": '{"a": 1.0}'}),
            sync_run=SyncRun(run_id="run-1"),
        ),
    )


def done() -> Eof:
    """Return the end of a call that finished its run."""
    return Eof(
        status=RUN_STATUS_SUCCEEDED,
        run_progress=progress(RUN_STATUS_SUCCEEDED, StreamProgress.STATUS_COMPLETED),
    )


def failed() -> Eof:
    """Return the end of a call with an errored stream and an unreachable source."""
    run_progress = progress(RUN_STATUS_FAILED, StreamProgress.STATUS_ERRORED, "value too long")
    run_progress.connection_status.status = ConnectionStatus.STATUS_FAILED
    run_progress.connection_status.message = "Stripe refuses the key"
    return Eof(
        status=RUN_STATUS_FAILED, failure_message="the source broke", run_progress=run_progress
    )


def batch_requests(service: ScriptedService) -> list[contract.SyncPipelineBatchRequest]:
    """Return the requests of the service, asserting that all are of this type."""
    return [
        request
        for request in service.requests
        if isinstance(request, contract.SyncPipelineBatchRequest)
    ]


async def test_one_call_without_a_loop_and_without_a_run_id() -> None:
    service = scripted_service()
    service.ends = [more()]
    outcome = await pipelines_of(service, "sync_batch", "orders")
    assert outcome.code == 0
    (request,) = batch_requests(service)
    assert request == contract.SyncPipelineBatchRequest(pipeline_id="orders")
    assert outcome.stdout == (
        "started, 9,007,199,254,740,993 records and 10 checkpoints in 12.3 s (10 records/s),"
        " 0 of 1 streams completed; there is more\n"
    )
    assert "orders: customers started, 1,234 records\n" in outcome.stderr


async def test_flags_become_the_request() -> None:
    service = scripted_service()
    service.ends = [done()]
    outcome = await pipelines_of(
        service,
        *("sync-batch", "orders", "--state-limit", "10", "--time-limit", "2.5"),
        *("--run-id", "run-7", "--reset-state", "--loop", "3"),
    )
    assert outcome.code == 0
    (request,) = batch_requests(service)
    assert request.state_limit == 10
    assert request.time_limit.ToTimedelta().total_seconds() == 2.5
    assert request.run_id == "run-7"
    assert request.reset_state


async def test_a_loop_stops_after_n_calls_of_one_run_and_resets_once() -> None:
    service = scripted_service()
    service.ends = [more(), more(), more()]
    outcome = await pipelines_of(service, "sync_batch", "orders", "--reset-state", "--loop", "2")
    assert outcome.code == 0
    first, second = batch_requests(service)
    assert first.run_id == second.run_id != ""
    assert (first.reset_state, second.reset_state) == (True, False)


async def test_a_loop_of_0_continues_until_there_is_no_more() -> None:
    service = scripted_service()
    service.ends = [more(), more(), more(), done()]
    outcome = await pipelines_of(service, "sync_batch", "orders", "--loop", "0")
    assert outcome.code == 0
    assert len(batch_requests(service)) == 4
    assert outcome.lines[-1].startswith("succeeded, ")
    assert outcome.lines[-1].endswith("1 of 1 streams completed")


async def test_a_loop_ends_with_a_call_whose_limit_is_too_short() -> None:
    service = scripted_service()
    empty, last = more(), failed()
    empty.limit_message = "no page arrived within the time_limit of 1 s"
    last.limit_message = empty.limit_message
    last.failure_message = f"3 requests in a row: {empty.limit_message}"
    service.ends = [empty, empty, last]
    outcome = await pipelines_of(service, "sync_batch", "orders", "--loop", "0")
    assert outcome.code == 1
    assert len(batch_requests(service)) == 3
    assert outcome.stderr.count(f"warning: {empty.limit_message}\n") == 2
    assert f"Error: 3 requests in a row: {empty.limit_message}\n" in outcome.stderr


async def test_raw_prints_one_json_object_a_call_with_numbers_as_numbers() -> None:
    service = scripted_service()
    service.ends = [more(), done()]
    outcome = await pipelines_of(service, "sync_batch", "orders", "--loop", "0", "--raw")
    assert outcome.code == 0
    assert outcome.stderr == ""
    first, second = [json.loads(line) for line in outcome.lines]
    assert first["has_more"] is True
    assert first["status"] == "started"
    assert first["run_progress"]["derived"]["total_record_count"] == LARGE
    assert first["run_progress"]["streams"]["customers"]["status"] == "started"
    assert first["ending_state"]["source"]["streams"] == {"customers": '{"a": 1.0}'}
    assert second["has_more"] is False
    assert second["status"] == "succeeded"


async def test_a_terminal_shows_a_table_and_stdout_has_only_the_result() -> None:
    service = scripted_service()
    service.ends = [more(), done()]
    terminal, program_side = os.openpty()
    async with serving(service) as address:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "pipesync_cli", "--service", address, "sync_batch", "orders", "--loop", "0"),
            stdout=asyncio.subprocess.PIPE,
            stderr=program_side,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "24"},
        )
        os.close(program_side)
        stdout, _ = await process.communicate()
    with os.fdopen(terminal, "rb", buffering=0) as screen:
        drawn = screen.read(65_536).decode()
    assert process.returncode == 0
    assert stdout.startswith(b"succeeded, ")
    assert stdout.count(b"\n") == 1
    assert "customers" in drawn
    assert "100%" in drawn


async def test_a_failed_sync_exits_1_with_the_reason() -> None:
    service = scripted_service()
    service.ends = [failed()]
    outcome = await pipelines_of(service, "sync_batch", "orders")
    assert outcome.code == 1
    for sentence in (
        "Error: customers: value too long\n",
        "Error: Stripe refuses the key\n",
        "Error: the source broke\n",
    ):
        assert sentence in outcome.stderr
    assert outcome.lines[-1].startswith("failed, ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--loop", "x"], "'--loop': Input should be a valid integer"),
        (["--loop", "-1"], "'--loop': Input should be greater than or equal to 0"),
        (["--state-limit", "0"], "'--state-limit': Input should be greater than or equal to 1"),
        (["--time-limit", "soon"], "'--time-limit': Input should be a valid number"),
        (["--time-limit", "nan"], "'--time-limit': Input should be a finite number"),
        (["--time-limit", "inf"], "'--time-limit': Input should be a finite number"),
        (["--time-limit", "0"], "'--time-limit': Input should be greater than 0"),
    ],
)
async def test_a_wrong_number_is_refused_by_name(arguments: list[str], sentence: str) -> None:
    outcome = await pipelines("sync_batch", "orders", *arguments)
    assert (outcome.code, outcome.stdout) == (2, "")
    (line,) = outcome.stderr.splitlines()
    assert line.startswith(f"Error: Invalid value for {sentence}")


async def test_sync_shows_statuses_and_logs_and_ends_with_a_summary() -> None:
    service = scripted_service()
    service.messages = [
        Message(
            emitted_by="source/stripe", log=Log(level=Log.LEVEL_WARN, message="retry, attempt 2")
        ),
        Message(progress=progress(RUN_STATUS_STARTED)),
        Message(source_state=StateCheckpoint(stream="customers", data="{}")),
        Message(progress=progress(RUN_STATUS_SUCCEEDED, StreamProgress.STATUS_COMPLETED)),
        Message(eof=done()),
    ]
    outcome = await pipelines_of(service, "sync", "orders", "--run-id", "run-1")
    assert outcome.code == 0
    assert service.requests == [contract.SyncPipelineRequest(pipeline_id="orders", run_id="run-1")]
    notes = outcome.stderr.splitlines()
    assert notes[0] == "warn: source/stripe: retry, attempt 2"
    assert "orders: customers started, 1,234 records" in notes
    assert "orders: customers completed, 1,234 records" in notes
    assert len(outcome.lines) == 1


async def test_raw_sync_prints_every_message() -> None:
    service = scripted_service()
    service.messages = [
        Message(source_state=StateCheckpoint(stream="customers", data='{"x": 1.0}')),
        Message(eof=failed()),
    ]
    outcome = await pipelines_of(service, "sync", "orders", "--raw")
    assert outcome.code == 1
    checkpoint, eof = [json.loads(line) for line in outcome.lines]
    assert checkpoint["source_state"] == {
        "stream": "customers",
        "data": '{"x": 1.0}',
        "excluded_streams": [],
        "stream_schema": "",
    }
    assert eof["eof"]["status"] == "failed"


async def test_a_stream_that_ends_without_a_result_is_a_failure() -> None:
    outcome = await pipelines_of(scripted_service(), "sync", "orders")
    assert (outcome.code, outcome.stderr) == (1, "Error: the sync ended without a result\n")


async def test_an_interrupt_exits_130_without_a_traceback() -> None:
    service = scripted_service()
    service.ends = [more()] * 100_000
    async with serving(service) as address:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "pipesync_cli", "--service", address, "sync_batch", "orders", "--loop", "0"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(os.environ),
        )
        assert process.stderr is not None
        await process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in errors


async def test_records_with_replaced_characters_are_a_warning_and_no_failure() -> None:
    service, end = scripted_service(), done()
    end.run_progress.streams["customers"].replaced_record_count = 1200
    service.ends = [end]
    outcome = await pipelines_of(service, "sync_batch", "orders")
    assert outcome.code == 0
    assert (
        "Warning: customers: 1,200 records held characters that the destination cannot store; "
        "U+FFFD replaces them\n"
    ) in outcome.stderr


async def test_dead_lettered_events_are_listed_and_counted_over_a_loop() -> None:
    service = scripted_service()
    service.ends = [more(), done()]
    service.ends[0].dead_letters.add(
        event_id="evt_1", event_type="customer.updated", attempt_count=5, reason="Stripe refuses"
    )
    service.ends[1].dead_letters.add(
        event_id="evt_2", event_type="invoice.paid", attempt_count=1, reason="nothing is there"
    )
    outcome = await pipelines_of(service, "sync_batch", "orders", "--loop", "0")
    assert outcome.code == 1
    first, second, total = outcome.stderr.splitlines()[-3:]
    assert first == (
        "Error: event evt_1 (customer.updated) was dead-lettered after 5 attempts: Stripe refuses"
    )
    assert (
        second
        == "Error: event evt_2 (invoice.paid) was dead-lettered after 1 attempt: nothing is there"
    )
    assert total.startswith(
        "Error: 2 events were dead-lettered: list with 'events --status dead-lettered'"
    )
    assert outcome.stdout.startswith("succeeded, ")
