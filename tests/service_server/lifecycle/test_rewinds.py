"""Continuous pipelines with rewound streams, which are read again at once."""

from collections.abc import Callable

import pytest

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.progress_pb2 import StreamProgress
from pipesync.v1.state_pb2 import Eof, SyncState
from service_server.store import states
from tests.service_server.lifecycle.scripts import Batches, Request, cut, succeeded
from tests.service_server.lifecycle.test_executor import Bench, bench
from tests.service_server.scripted_engine import ScriptedEngine

__all__ = ["bench"]


def rewind(state: SyncState) -> None:
    """Rewind a state as an engine does whose destination has lost a table."""
    state.sync_run.finished = False
    state.sync_run.progress.streams["customers"].CopyFrom(
        StreamProgress(status=StreamProgress.STATUS_NOT_STARTED, rewound_reason="its table is gone")
    )


def rewound(request: Request) -> Eof:
    """Return the end of a poll that rewound streams."""
    eof = succeeded(request)
    rewind(eof.ending_state)
    eof.rewound_streams.add(stream="customers", from_start=True, reason="its table is gone")
    return eof


def finished(request: Request) -> Eof:
    eof = succeeded(request)
    eof.ending_state.sync_run.finished = True
    eof.ending_state.sync_run.ClearField("progress")
    return eof


async def by_a_poll(bench: Bench, batches: Batches) -> None:
    batches.script = [rewound, finished]
    await bench.end_delays()
    await bench.wake()


async def by_another_call(bench: Bench, _: Batches) -> None:
    """Rewind as an event does, or a sync that its caller cut short."""
    async with bench.database.connection() as connection:
        state = await states.get(connection, "first")
        assert state is not None
        rewind(state)
        await states.put(connection, "first", state)
    await bench.wake()


@pytest.mark.parametrize("find", [by_a_poll, by_another_call])
async def test_rewound_streams_are_read_at_once_by_the_same_run(
    bench: Bench, engine: ScriptedEngine, find: Callable[[Bench, Batches], object]
) -> None:
    engine.batch = batches = Batches([finished])
    await bench.run_all_steps()
    [first] = batches.runs
    await find(bench, batches)  # type: ignore[misc]  # either is a coroutine function
    await bench.run_all_steps()
    _, second = batches.runs
    assert second.options.run_id == first.options.run_id
    assert (await bench.shown()).status == pb.PIPELINE_STATUS_READY


async def test_a_pipeline_reports_the_reason_until_its_streams_are_read_again(
    bench: Bench, engine: ScriptedEngine
) -> None:
    def goes_on(request: Request) -> Eof:
        eof = cut(request)
        rewind(eof.ending_state)
        return eof

    engine.batch = batches = Batches([finished])
    await bench.run_all_steps()
    batches.script = [rewound]
    await bench.end_delays()
    await bench.wake()
    assert await bench.run_step()
    shown = await bench.shown()
    assert shown.status == pb.PIPELINE_STATUS_BACKFILL
    assert shown.status_message == "its table is gone"
    batches.script = [goes_on, finished]
    await bench.run_all_steps()
    assert len({request.options.run_id for request in batches.runs}) == 1
    shown = await bench.shown()
    assert (shown.status, shown.status_message) == (pb.PIPELINE_STATUS_READY, "")
