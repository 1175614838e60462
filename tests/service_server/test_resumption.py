"""Tests for resumptions: their stored state, and overrides that keep the stored state."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from google.rpc import code_pb2

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import RunStatus
from pipesync.v1.state_pb2 import (
    CheckpointPosition,
    Eof,
    LostInputs,
    Resumption,
    RewoundStream,
    SyncState,
)
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from service_server.store import states
from service_server.store.database import Database
from tests.service_server.conftest import SECRET, connector
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.syncing import (
    checkpoint,
    ends,
    get,
    runs,
    state,
    stored_state,
    sync,
    sync_batch,
)


@pytest.fixture(autouse=True)
async def first(created: pb.Pipeline) -> pb.Pipeline:
    return created


def position(number: int, epoch: str = "e") -> CheckpointPosition:
    return CheckpointPosition(epoch=epoch, number=number)


def recorded(cursor: str, number: int, *, inputs: int | None = None) -> SyncState:
    """Return a state whose destination records checkpoints."""
    made = state(cursor)
    made.destination = '{"lineage": "l"}'
    made.positions["customers"].CopyFrom(position(number))
    if inputs is not None:
        made.inputs_position.CopyFrom(position(inputs))
    return made


def at(cursor: str, number: int) -> Message:
    message = checkpoint(cursor)
    message.source_state.position.CopyFrom(position(number))
    return message


def sends(*messages: Message) -> Any:
    async def script(_: object) -> AsyncGenerator[Message, None]:
        for message in messages:
            yield message
        raise RpcError("it ends here", code=code_pb2.INTERNAL)

    return script


async def drain(answers: AsyncGenerator[Any, None]) -> None:
    with pytest.raises(RpcError):
        async for _ in answers:
            pass


async def test_a_position_is_stored_only_with_its_own_checkpoint(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    engine.sync = sends(at("1", 1), at("2", 2))
    await drain(sync(client))
    stored = await stored_state(database)
    assert stored is not None
    assert (stored.source.streams["customers"], stored.positions["customers"]) == (
        "2",
        position(2),
    )
    engine.sync = sends(checkpoint("3"))
    await drain(sync(client))
    stored = await stored_state(database)
    assert stored is not None
    assert stored.source.streams["customers"] == "3"
    assert "customers" not in stored.positions


async def test_a_resumption_replaces_the_stored_state(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = ends("", ending_state=recorded("9", 9, inputs=9))
    await sync_batch(client)
    resumed = recorded("4", 4, inputs=9)
    resumption = Resumption(
        state=resumed, rewound_streams=[RewoundStream(stream="customers", reason="restored")]
    )
    engine.sync = sends(Message(resumption=resumption))
    await drain(sync(client))
    sent = engine.last(engine_pb.PipelineSyncRequest).options
    assert sent.state.source.streams["customers"] == "9"
    assert sent.replayable_inputs == position(9)
    assert await stored_state(database) == resumed


async def test_a_reset_starts_a_new_lineage_without_a_position_of_inputs(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = ends("", ending_state=recorded("9", 9, inputs=9))
    await sync_batch(client)
    engine.batch = ends("", ending_state=recorded("1", 1, inputs=1))
    await sync_batch(client, reset_state=True)
    options = engine.last(engine_pb.PipelineSyncBatchRequest).options
    assert not options.HasField("state")
    assert not options.HasField("replayable_inputs")
    await sync_batch(client)
    options = engine.last(engine_pb.PipelineSyncBatchRequest).options
    assert options.replayable_inputs == position(1)


async def test_inputs_before_the_position_of_a_destination_that_is_ahead_are_not_replayed(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    for number in (3, 7):
        engine.batch = ends("", ending_state=recorded("1", 1, inputs=number))
        await sync_batch(client)
    await sync_batch(client)
    assert engine.last(engine_pb.PipelineSyncBatchRequest).options.replayable_inputs == position(7)


async def test_inputs_that_a_reread_covers_are_not_replayed(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = ends("", ending_state=recorded("9", 9, inputs=9))
    await sync_batch(client)
    after = recorded("1", 1)
    after.inputs_position.CopyFrom(position(4, "f"))
    lost = LostInputs(held=position(4), covered_by_reread=True)
    engine.batch = ends("", ending_state=after, lost_inputs=lost)
    await sync_batch(client)
    async with database.connection() as connection:
        stored = await states.load(connection, "first")
    assert (stored.inputs.series, stored.inputs.position) == (2, position(4, "f"))
    assert stored.inputs.replayable == position(4, "f")


@pytest.mark.parametrize("side", ["source", "destination"])
async def test_overrides_with_another_target_keep_the_stored_state(
    client: PipelineClient, engine: ScriptedEngine, database: Database, side: str
) -> None:
    own = recorded("own", 9, inputs=9)
    engine.batch = ends("", ending_state=own)
    await sync_batch(client)
    engine.batch = ends("", ending_state=recorded("other", 1, inputs=1))
    overrides = pb.SyncOverrides()
    getattr(overrides, side).CopyFrom(connector(host="elsewhere"))
    eof = await sync_batch(client, run_id="elsewhere", overrides=overrides, reset_state=True)
    assert eof.ending_state.source.streams["customers"] == "other"
    assert await stored_state(database) == own
    options = engine.last(engine_pb.PipelineSyncBatchRequest).options
    assert not options.HasField("replayable_inputs")
    assert (await runs(client))[0].run_id == "elsewhere"
    engine.sync = sends(at("other", 3))
    await drain(sync(client, overrides=overrides))
    assert await stored_state(database) == own


async def test_overrides_with_the_same_target_change_the_stored_state(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = ends("next")
    overrides = pb.SyncOverrides(source=connector(rate=7), destination=connector(rate=7))
    await sync_batch(client, overrides=overrides)
    assert await stored_state(database) == state("next")


async def test_a_key_of_another_account_keeps_the_stored_state(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = ends("own", account_id="acct_1")
    await sync_batch(client)
    overrides = pb.SyncOverrides(source=connector(api_key="sk_other"))
    engine.batch = ends("other", account_id="acct_2")
    await sync_batch(client, overrides=overrides)
    assert await stored_state(database) == state("own")
    resumption = Resumption(state=state("other"), account_id="acct_2")
    engine.sync = sends(Message(resumption=resumption), checkpoint("other"))
    await drain(sync(client, overrides=overrides))
    assert await stored_state(database) == state("own")
    engine.batch = ends("same", account_id="acct_1")
    await sync_batch(client, overrides=overrides)
    assert await stored_state(database) == state("same")


@pytest.mark.parametrize("stored", [None, state("older")], ids=["no_sync_yet", "older_version"])
async def test_another_key_keeps_a_state_of_an_unknown_account(
    client: PipelineClient, engine: ScriptedEngine, database: Database, stored: SyncState | None
) -> None:
    if stored is not None:
        engine.batch = ends("older")
        await sync_batch(client)
    before = await get(client)
    overrides = pb.SyncOverrides(source=connector(api_key="sk_other"))
    engine.batch = ends("other", account_id="acct_2")
    eof = await sync_batch(client, overrides=overrides)
    assert eof.ending_state == state("other")
    resumption = Resumption(state=state("other"), account_id="acct_2")
    engine.sync = sends(Message(resumption=resumption), checkpoint("other"))
    await drain(sync(client, overrides=overrides))
    assert await stored_state(database) == stored
    assert (await get(client)).status == before.status
    # Nor does it determine the account of the next stored state.
    engine.batch = ends("own", account_id="acct_1")
    await sync_batch(client)
    async with database.connection() as connection:
        assert (await states.load(connection, "first")).account_id == "acct_1"


async def test_another_key_of_the_same_account_changes_the_stored_state(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    engine.account_id = "acct_1"
    overrides = pb.SyncOverrides(source=connector(api_key="sk_other"))
    engine.batch = ends("other", account_id="acct_2")
    await sync_batch(client, overrides=overrides)
    assert await stored_state(database) is None
    engine.batch = ends("same", account_id="acct_1")
    await sync_batch(client, overrides=overrides)
    asked = engine.last(engine_pb.SourceDiscoverRequest)
    assert asked.source.config["api_key"] == SECRET
    async with database.connection() as connection:
        stored = await states.load(connection, "first")
    assert (stored.state, stored.account_id) == (state("same"), "acct_1")


async def test_an_invalid_key_in_overrides_is_no_failure_of_the_pipeline(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    engine.batch = ends("own", account_id="acct_1")
    await sync_batch(client)
    engine.batch = ends("", status=RunStatus.RUN_STATUS_FAILED, failure_message="bad key")
    await sync_batch(client, overrides=pb.SyncOverrides(source=connector(api_key="sk_bad")))
    assert (await get(client)).status == pb.PIPELINE_STATUS_READY
    assert (await runs(client))[0].failure_message == "bad key"


async def test_another_key_of_a_source_without_an_account_keeps_the_stored_state(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = ends("other", account_id="acct_2")
    engine.discover_error = RpcError("bad", code=code_pb2.INVALID_ARGUMENT)
    overrides = pb.SyncOverrides(source=connector(api_key="sk_other"))
    await sync_batch(client, overrides=overrides)
    assert await stored_state(database) is None


async def test_another_webhook_secret_is_no_other_account(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = ends("next")
    await sync_batch(client, overrides=pb.SyncOverrides(source=connector(webhook_secret="whsec_")))
    assert await stored_state(database) == state("next")


async def test_rewinds_are_in_the_eof_of_a_batch(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    rewound = RewoundStream(stream="customers", from_start=True, reason="its table is gone")
    engine.batch = ends("1", rewound_streams=[rewound])
    eof: Eof = await sync_batch(client)
    assert list(eof.rewound_streams) == [rewound]
    assert eof.status == RunStatus.RUN_STATUS_SUCCEEDED
