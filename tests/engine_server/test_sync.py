"""Complete syncs over gRPC: messages, ends, and continuations."""

import asyncio

import orjson
import pytest
from structlog.testing import capture_logs

from engine_server.connectors.protocols import Messages, ReadRequest
from pipesync.v1.catalog_pb2 import StreamSelection
from pipesync.v1.progress_pb2 import (
    RUN_STATUS_FAILED,
    RUN_STATUS_STARTED,
    RUN_STATUS_SUCCEEDED,
    StreamProgress,
)
from tests.engine_server.engine import ScriptedEngine
from tests.engine_server.reads import given
from tests.messages import checkpoint, completed, global_checkpoint, log, record_batch, started

COMPLETED = StreamProgress.STATUS_COMPLETED
DATASET = {
    "customers": [[b'{"id": "c1"}', b'{"id": "c2"}'], [b'{"id": "c3"}'], [b'{"id": "c4"}']],
    "empty": [],
    "invoices": [[b'{"id": "i1"}'], [b'{"id": "i2"}']],
}
CHECKPOINTS = 5
RECORDS = {
    name: [record for page in pages for record in page] for name, pages in DATASET.items() if pages
}


async def test_the_run_comes_first_and_the_eof_last(engine: ScriptedEngine) -> None:
    engine.holds(DATASET)
    messages = await engine.sync(run_id="r1")
    run = messages[0].sync_run
    assert messages[0].WhichOneof("payload") == "sync_run"
    assert run.run_id == "r1"
    assert run.time_ceiling.seconds > 0
    assert messages[-1].WhichOneof("payload") == "eof"
    assert [message.HasField("eof") for message in messages].count(True) == 1


async def test_a_sync_yields_annotated_messages_without_records(
    engine: ScriptedEngine,
) -> None:
    engine.holds(DATASET)
    messages = await engine.sync()
    kinds = {message.WhichOneof("payload") for message in messages}
    assert kinds == {"sync_run", "stream_status", "source_state", "progress", "eof"}
    for message in messages:
        from_source = message.WhichOneof("payload") in {"stream_status", "source_state"}
        assert message.emitted_by == ("source/scripted" if from_source else "engine")
        assert message.ts.seconds > 0


async def test_the_last_progress_equals_that_of_the_eof(engine: ScriptedEngine) -> None:
    engine.holds(DATASET)
    *_, progress, eof = await engine.sync()
    assert progress.progress == eof.eof.run_progress == eof.eof.ending_state.sync_run.progress


async def test_a_finished_sync_has_committed_and_counted_everything(
    engine: ScriptedEngine,
) -> None:
    engine.holds(DATASET)
    eof = await engine.batch(run_id="r1")
    assert engine.destination.committed == RECORDS
    assert eof.status == RUN_STATUS_SUCCEEDED
    assert not eof.has_more
    assert not eof.failure_message
    assert eof.ending_state.source.streams["customers"] == '{"pages": 3}'
    assert "empty" not in eof.ending_state.source.streams
    for progress in (eof.run_progress, eof.request_progress):
        assert {name: one.status for name, one in progress.streams.items()} == dict.fromkeys(
            DATASET, COMPLETED
        )
        assert progress.streams["customers"].record_count == 4
        assert progress.streams["customers"].state_count == 3
        assert progress.derived.total_record_count == 6
        assert progress.derived.total_state_count == CHECKPOINTS


@pytest.mark.parametrize("run_id", ["", "r1"])
@pytest.mark.parametrize("limit", range(1, CHECKPOINTS + 2))
@pytest.mark.parametrize("commit_every", [1, 4])
async def test_looping_with_any_state_limit_yields_every_record_once(
    engine: ScriptedEngine, limit: int, run_id: str, commit_every: int
) -> None:
    engine.holds(DATASET)
    engine.destination.commit_every = commit_every
    ends = await engine.loop(state_limit=limit, run_id=run_id)
    assert engine.destination.committed == RECORDS
    for eof in ends[:-1]:
        assert eof.request_progress.derived.total_state_count == limit
    final = ends[-1]
    assert final.status == RUN_STATUS_SUCCEEDED
    assert final.run_progress.derived.total_record_count == 6
    assert final.run_progress.derived.total_state_count == CHECKPOINTS
    assert {one.status for one in final.run_progress.streams.values()} == {COMPLETED}
    assert len({eof.ending_state.sync_run.time_ceiling.seconds for eof in ends[:-1]}) <= 1


async def test_a_streamed_sync_ends_at_its_state_limit(engine: ScriptedEngine) -> None:
    engine.holds(DATASET)
    messages = await engine.sync(state_limit=2)
    states = [message.source_state for message in messages if message.HasField("source_state")]
    assert [state.data for state in states] == ['{"pages": 1}', '{"pages": 2}']
    eof = messages[-1].eof
    assert eof.has_more
    assert eof.status == RUN_STATUS_STARTED
    assert eof.ending_state.source.streams == {"customers": '{"pages": 2}'}
    assert engine.source.closed.is_set()


async def test_a_batch_takes_a_thousand_checkpoints_by_default(
    engine: ScriptedEngine,
) -> None:
    engine.holds({"many": [[orjson.dumps({"id": number})] for number in range(1001)]})
    eof = await engine.batch()
    assert eof.request_progress.derived.total_state_count == 1000
    assert eof.has_more
    assert engine.source.requests[0].state_limit == 1000
    messages = await engine.sync()
    assert messages[-1].eof.request_progress.derived.total_state_count == 1001
    assert engine.source.requests[1].state_limit is None


async def test_a_shared_checkpoint_is_counted_and_kept(engine: ScriptedEngine) -> None:
    engine.offers(
        "a",
        read=given(
            started("a"),
            record_batch("a", b"{}"),
            global_checkpoint('{"cursor": 1.0}'),
            checkpoint("a"),
        ),
    )
    eof = await engine.batch(state_limit=1)
    assert eof.has_more
    assert eof.ending_state.source.shared == '{"cursor": 1.0}'
    assert not eof.ending_state.source.streams
    assert eof.run_progress.global_state_count == 1
    again = await engine.batch(state=eof.ending_state)
    assert engine.source.requests[1].state.shared == '{"cursor": 1.0}'
    assert again.run_progress.global_state_count == 2


async def test_only_selected_fields_reach_the_destination(engine: ScriptedEngine) -> None:
    engine.holds({"a": [[b'{"id": 1, "name": "n", "email": "e"}']], "b": [[b'{ "id": 2 }']]})
    await engine.batch(
        streams=[StreamSelection(name="a", fields=["name"]), StreamSelection(name="b")]
    )
    assert engine.destination.committed == {"a": [b'{"id":1,"name":"n"}'], "b": [b'{ "id": 2 }']}


async def test_logs_of_the_source_reach_the_engines_log_and_the_caller(
    engine: ScriptedEngine,
) -> None:
    engine.offers("a", read=given(log("page fetched"), completed("a")))
    with capture_logs() as logs:
        messages = await engine.sync()
    assert [message.log.message for message in messages if message.HasField("log")] == [
        "page fetched"
    ]
    logged = [entry for entry in logs if entry["event"] == "connector_log"]
    assert [(entry["emitted_by"], entry["message"]) for entry in logged] == [
        ("source/scripted", "page fetched")
    ]


async def test_each_request_logs_its_start_and_end(engine: ScriptedEngine) -> None:
    engine.holds(DATASET)
    with capture_logs() as logs:
        await engine.batch(run_id="r1", state_limit=2)
    told = [entry for entry in logs if entry["event"] in ("sync_started", "sync_ended")]
    assert [(entry["event"], entry["run_id"]) for entry in told] == [
        ("sync_started", "r1"),
        ("sync_ended", "r1"),
    ]
    assert (told[0]["streams"], told[0]["inputs"]) == (3, 0)
    ended = told[1]
    assert (ended["status"], ended["has_more"]) == ("started", True)
    assert (ended["records"], ended["states"]) == (3, 2)


async def test_concurrent_syncs_are_independent(engine: ScriptedEngine) -> None:
    engine.holds(DATASET)
    ends = await asyncio.gather(*[engine.batch(run_id=f"r{number}") for number in range(50)])
    for number, eof in enumerate(ends):
        assert eof.status == RUN_STATUS_SUCCEEDED
        assert eof.ending_state.sync_run.run_id == f"r{number}"
        assert eof.run_progress.derived.total_record_count == 6


async def test_continuing_a_finished_run_returns_at_once(engine: ScriptedEngine) -> None:
    engine.holds(DATASET)
    first = await engine.batch(run_id="r1")
    again = await engine.batch(run_id="r1", state=first.ending_state)
    assert len(engine.source.requests) == 1
    assert again.status == RUN_STATUS_SUCCEEDED
    assert not again.has_more
    assert again.ending_state.source == first.ending_state.source
    assert again.run_progress.streams == first.run_progress.streams
    assert not again.request_progress.streams


async def test_changes_are_read_until_none_are_left(
    engine: ScriptedEngine,
) -> None:
    engine.offers(
        "a", read=given(started("a"), checkpoint("a"), completed("a"), global_checkpoint())
    )
    first = await engine.batch(run_id="r1", state_limit=2)
    assert first.run_progress.streams["a"].status == COMPLETED
    assert first.has_more
    engine.offers("a", read=given(record_batch("a", b"{}"), global_checkpoint('{"n": 2}')))
    second = await engine.batch(run_id="r1", state=first.ending_state)
    asked = engine.source.requests[1]
    assert not asked.streams
    assert [selected.name for selected in asked.selected] == ["a"]
    assert (second.status, second.has_more) == (RUN_STATUS_SUCCEEDED, False)
    assert second.run_progress.streams["a"].record_count == 1
    await engine.batch(run_id="r1", state=second.ending_state)
    assert len(engine.source.requests) == 2


async def test_events_only_requests_belong_to_no_run(engine: ScriptedEngine) -> None:
    engine.holds(DATASET)
    first = await engine.batch(run_id="r1", state_limit=1)
    engine.offers(
        "customers",
        read=given(record_batch("customers", b'{"id": "c9"}'), global_checkpoint('{"n": 1}')),
    )
    events = await engine.batch(state=first.ending_state, events_only=True)
    asked = engine.source.requests[1]
    assert not asked.streams
    assert [selected.name for selected in asked.selected] == ["customers"]
    assert (events.status, events.has_more) == (RUN_STATUS_SUCCEEDED, False)
    assert events.run_progress.derived.total_record_count == 1
    assert events.ending_state.sync_run == first.ending_state.sync_run
    assert events.ending_state.source.streams == first.ending_state.source.streams
    assert events.ending_state.source.shared == '{"n": 1}'


async def test_only_a_streamed_sync_listens(engine: ScriptedEngine) -> None:
    engine.holds(DATASET)
    await engine.batch()
    await engine.sync()
    assert [request.listen for request in engine.source.requests] == [False, True]


async def test_later_requests_of_a_run_refuse_its_errored_streams(
    engine: ScriptedEngine,
) -> None:
    engine.holds(DATASET)
    engine.destination.refuses = frozenset({"customers"})
    first = await engine.batch(run_id="r1", state_limit=1)
    while first.has_more:
        first = await engine.batch(run_id="r1", state=first.ending_state, state_limit=1)
    assert "customers" in engine.source.requests[-1].errored_streams


async def test_a_source_learns_when_its_records_are_committed(engine: ScriptedEngine) -> None:
    committed: list[dict[str, list[bytes]]] = []

    async def read(request: ReadRequest) -> Messages:
        yield started("a")
        yield record_batch("a", b"1")
        yield request.barriers.put(lambda: committed.append(dict(engine.destination.committed)))
        yield completed("a")

    engine.offers("a", read=read)
    messages = await engine.sync()
    assert committed == [{"a": [b"1"]}]
    assert not any(message.HasField("barrier") for message in messages)


async def test_a_continuation_reads_only_unfinished_streams(
    engine: ScriptedEngine,
) -> None:
    engine.holds({"a": [[b'{"id": 1}']], "b": [[b'{"id": 1}'], [b'{"id": 2}']]})
    first = await engine.batch(run_id="r1", state_limit=2)
    assert first.run_progress.streams["a"].status == COMPLETED
    await engine.batch(run_id="r1", state=first.ending_state)
    asked = [[selected.name for selected in one.streams] for one in engine.source.requests]
    assert asked == [["a", "b"], ["b"]]
    request = engine.source.requests[1]
    assert request.state.streams == {"a": '{"pages": 1}', "b": '{"pages": 1}'}


async def test_a_new_run_keeps_checkpoints_and_reads_every_stream_again(
    engine: ScriptedEngine,
) -> None:
    engine.holds(DATASET)
    first = await engine.batch(run_id="r1")
    second = await engine.batch(run_id="r2", state=first.ending_state)
    assert len(engine.source.requests[1].streams) == 3
    assert engine.destination.committed == RECORDS
    assert second.run_progress.derived.total_record_count == 0
    assert {one.status for one in second.run_progress.streams.values()} == {COMPLETED}
    assert second.ending_state.sync_run.run_id == "r2"


async def test_streams_are_read_up_to_the_runs_ceiling(engine: ScriptedEngine) -> None:
    engine.holds(DATASET)
    first = await engine.batch(run_id="r1", state_limit=1)
    first.ending_state.sync_run.time_ceiling.seconds -= 1000
    await engine.batch(run_id="r1", state=first.ending_state, state_limit=1)
    ceiling = first.ending_state.sync_run.time_ceiling
    bounds = [one.selection.time_range.lt for one in engine.source.requests[1].streams]
    assert bounds == [ceiling] * 3
    assert engine.source.requests[1].until == ceiling


async def test_checkpoints_of_streams_no_longer_selected_are_kept(engine: ScriptedEngine) -> None:
    engine.holds(DATASET)
    first = await engine.batch()
    engine.holds({"invoices": DATASET["invoices"]})
    second = await engine.batch(state=first.ending_state)
    assert second.ending_state.source.streams["customers"] == '{"pages": 3}'


async def test_a_read_yields_records_and_uses_no_destination(
    engine: ScriptedEngine,
) -> None:
    engine.holds(DATASET)
    messages = await engine.read(state_limit=2)
    records = [record for message in messages for record in message.record_batch.records]
    assert records == RECORDS["customers"][:3]
    assert messages[-1].eof.has_more
    assert messages[-1].eof.request_progress.derived.total_record_count == 3
    assert not engine.destination.committed


async def test_a_source_that_leaves_streams_unfinished_fails(engine: ScriptedEngine) -> None:
    engine.offers("a", "b", read=given(started("a"), started("b"), completed("b")))
    eof = await engine.batch()
    assert eof.status == RUN_STATUS_FAILED
    assert eof.failure_message == "the source ended without finishing these streams: a"
    assert not eof.has_more
