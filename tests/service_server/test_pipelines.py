import re
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import code_pb2

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import StreamSelection
from pipesync.v1.progress_pb2 import UnreadableStream
from pipesync_client import PipelineClient
from pipesync_rpc.errors import FieldViolation, RpcError
from tests.service_server.conftest import SECRET, connector, pipeline
from tests.service_server.scripted_engine import ScriptedEngine

MASK = "********"


async def create(
    client: PipelineClient, wanted: pb.Pipeline, *, skip_check: bool = True
) -> pb.Pipeline:
    request = pb.CreatePipelineRequest(pipeline=wanted, skip_check=skip_check)
    return (await client.create_pipeline(request)).pipeline


async def get(client: PipelineClient, view: pb.PipelineView.ValueType = 0) -> pb.Pipeline:  # type: ignore[assignment]  # zero is the default view
    return (
        await client.get_pipeline(pb.GetPipelineRequest(pipeline_id="first", view=view))
    ).pipeline


async def update(client: PipelineClient, wanted: pb.Pipeline, *paths: str) -> pb.Pipeline:
    request = pb.UpdatePipelineRequest(pipeline=wanted, update_mask=FieldMask(paths=paths))
    return (await client.update_pipeline(request)).pipeline


def bad_fields(error: pytest.ExceptionInfo[RpcError]) -> list[str]:
    assert error.value.code == code_pb2.INVALID_ARGUMENT
    return [violation.field for violation in error.value.field_violations]


async def test_a_created_pipeline_is_shown_with_its_secrets_masked(created: pb.Pipeline) -> None:
    assert created.id == "first"
    assert created.config.source.config["api_key"] == MASK
    assert created.config.destination.config["api_key"] == MASK
    assert created.desired_status == pb.DESIRED_STATUS_ACTIVE
    assert created.status == pb.PIPELINE_STATUS_SETUP
    assert created.sync_policy == pb.SYNC_POLICY_MANUAL
    assert created.etag


async def test_the_engine_is_given_the_secrets(
    created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    config = engine.last(engine_pb.PipelineCheckRequest).pipeline
    assert config.source.config["api_key"] == SECRET
    assert config.destination.config["api_key"] == f"{SECRET}_2"


async def test_an_empty_id_is_generated(client: PipelineClient) -> None:
    made = await create(client, pipeline(""))
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{2,63}", made.id)


@pytest.mark.parametrize("good", ["abc", "A-_", "a" * 64, "x0123456789"])
async def test_a_valid_id_is_accepted(client: PipelineClient, good: str) -> None:
    assert (await create(client, pipeline(good))).id == good


@pytest.mark.parametrize("bad", ["ab", "a" * 65, "1bc", "_bc", "-bc", "a b", "a.b", "ábc", "abc\n"])
async def test_an_invalid_id_is_named(client: PipelineClient, bad: str) -> None:
    with pytest.raises(RpcError) as error:
        await create(client, pipeline(bad))
    assert bad_fields(error) == ["pipeline.id"]


async def test_a_taken_id_is_refused(client: PipelineClient, created: pb.Pipeline) -> None:
    with pytest.raises(RpcError) as error:
        await create(client, pipeline())
    assert error.value.code == code_pb2.ALREADY_EXISTS
    assert error.value.reason == "PIPELINE_EXISTS"
    assert "first" in error.value.message


async def test_all_invalid_fields_are_named_at_once(client: PipelineClient) -> None:
    wanted = pb.Pipeline(
        id="1",
        desired_status=pb.DESIRED_STATUS_DELETED,
    )
    with pytest.raises(RpcError) as error:
        await create(client, wanted)
    assert sorted(bad_fields(error)) == [
        "pipeline.config.destination.type",
        "pipeline.config.source.type",
        "pipeline.desired_status",
        "pipeline.id",
    ]


@pytest.mark.parametrize("change", ["create", "update"])
async def test_the_engine_validates_a_configuration_without_connections(
    client: PipelineClient, engine: ScriptedEngine, change: str
) -> None:
    if change == "update":
        await create(client, pipeline())
    engine.error = RpcError(
        "bad",
        code=code_pb2.INVALID_ARGUMENT,
        reason="INVALID_REQUEST",
        field_violations=[FieldViolation("pipeline.streams[0].name", "is unknown")],
    )
    wanted = pipeline()
    wanted.config.streams.add(name="custmers")
    changing = (
        create(client, wanted, skip_check=True)
        if change == "create"
        else update(client, wanted, "config.streams")
    )
    with pytest.raises(RpcError) as error:
        await changing
    assert bad_fields(error) == ["pipeline.config.streams[0].name"]
    assert engine.last(engine_pb.PipelineCheckRequest).validate_only


async def test_a_failed_connection_is_reported_with_the_connectors_message(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    engine.failing_check = "the API says no"
    with pytest.raises(RpcError) as error:
        await create(client, pipeline(), skip_check=False)
    assert error.value.code == code_pb2.FAILED_PRECONDITION
    assert error.value.reason == "CONNECTION_FAILED"
    assert "source/scripted: the API says no" in error.value.message
    with pytest.raises(RpcError, match="no pipeline 'first'"):
        await get(client)


async def test_a_new_pipeline_reports_its_unreadable_streams(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    engine.unreadable_streams = [UnreadableStream(stream="payouts", reason="The key may not.")]
    engine.notices = ["events are rendered in 2020-08-27"]
    answer = await client.create_pipeline(pb.CreatePipelineRequest(pipeline=pipeline()))
    assert list(answer.unreadable_streams) == engine.unreadable_streams
    assert set(answer.notices) == {*engine.notices}
    assert (await get(client)).id == answer.pipeline.id == "first"


async def test_the_engines_field_names_become_the_callers(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    engine.error = RpcError(
        "pipeline.source.config.api_key: is wrong",
        code=code_pb2.INVALID_ARGUMENT,
        reason="INVALID_REQUEST",
        field_violations=[
            FieldViolation("pipeline.source.config.api_key", "is wrong"),
            FieldViolation("pipeline.streams[0].name", "is unknown"),
        ],
    )
    with pytest.raises(RpcError) as error:
        await create(client, pipeline(), skip_check=False)
    assert bad_fields(error) == [
        "pipeline.config.source.config.api_key",
        "pipeline.config.streams[0].name",
    ]
    assert error.value.message.startswith("pipeline.config.source.config.api_key: is wrong")


async def test_an_unknown_connector_is_not_found(client: PipelineClient) -> None:
    wanted = pipeline()
    wanted.config.source.type = "stripes"
    with pytest.raises(RpcError) as error:
        await create(client, wanted)
    assert (error.value.code, error.value.reason) == (code_pb2.NOT_FOUND, "UNKNOWN_CONNECTOR")


async def test_every_violation_of_a_new_pipeline_is_named(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    wanted = pipeline("1 bad id")
    status: Any = 9
    wanted.desired_status = status
    wanted.config.source.type = "stripes"
    wanted.config.destination.config["api_key"] = "********"
    engine.error = RpcError(
        "bad",
        code=code_pb2.INVALID_ARGUMENT,
        reason="INVALID_REQUEST",
        field_violations=[
            FieldViolation("pipeline.destination.config.api_key", "is the same"),
            FieldViolation("pipeline.streams[0].name", "is unknown"),
        ],
    )
    with pytest.raises(RpcError) as error:
        await create(client, wanted)
    assert error.value.code == code_pb2.INVALID_ARGUMENT
    assert {one.field for one in error.value.field_violations} == {
        "pipeline.id",
        "pipeline.desired_status",
        "pipeline.config.source.type",
        "pipeline.config.destination.config.api_key",
        "pipeline.config.streams[0].name",
    }


def bad_destination_and_stream() -> RpcError:
    """Return the engine's error for a destination and a stream."""
    return RpcError(
        "bad",
        code=code_pb2.INVALID_ARGUMENT,
        reason="INVALID_REQUEST",
        field_violations=[
            FieldViolation("pipeline.source.config.api_key", "must be a key"),
            FieldViolation("pipeline.destination.config.rate", "must be a number"),
            FieldViolation("pipeline.streams[0].name", "is unknown"),
        ],
    )


async def test_an_unknown_connector_hides_no_other_violation_of_a_new_pipeline(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    wanted = pipeline()
    wanted.config.source.type = "stripes"
    engine.error = bad_destination_and_stream()
    with pytest.raises(RpcError) as error:
        await create(client, wanted)
    assert error.value.code == code_pb2.INVALID_ARGUMENT
    assert {"pipeline.config.source.type", "pipeline.config.destination.config.rate"} < {
        one.field for one in error.value.field_violations
    }


@pytest.mark.parametrize(
    ("pipeline_id", "also_bad"),
    [
        ("first", ["pipeline.config.source.config.api_key"]),
        ("1 bad id", ["pipeline.id"]),
        ("", ["pipeline.id"]),
    ],
)
async def test_every_violation_of_an_update_is_named(
    client: PipelineClient,
    created: pb.Pipeline,
    engine: ScriptedEngine,
    pipeline_id: str,
    also_bad: list[str],
) -> None:
    wanted = pipeline(pipeline_id)
    wanted.config.source.config.update({"api_key": "********", "base_url": "https://other"})
    engine.error = bad_destination_and_stream()
    with pytest.raises(RpcError) as error:
        await update(client, wanted, "config.source", "config.destination", "config.streams")
    assert bad_fields(error) == [
        *also_bad,
        "pipeline.config.destination.config.rate",
        "pipeline.config.streams[0].name",
    ]
    wanted.config.source.type = "stripes"
    with pytest.raises(RpcError) as error:
        await update(client, wanted, "config.source", "config.destination")
    assert error.value.code == code_pb2.INVALID_ARGUMENT
    assert {"pipeline.config.source.type", "pipeline.config.destination.config.rate"} < set(
        bad_fields(error)
    )
    # Fields that are not in the mask are ignored.
    with pytest.raises(RpcError) as error:
        await update(client, wanted, "config.source")
    assert not [one for one in bad_fields(error) if "destination" in one]


async def test_unknown_connectors_are_named_on_both_sides(client: PipelineClient) -> None:
    wanted = pipeline()
    wanted.config.source.type = wanted.config.destination.type = "stripes"
    with pytest.raises(RpcError) as error:
        await create(client, wanted)
    assert (error.value.code, error.value.reason) == (code_pb2.NOT_FOUND, "UNKNOWN_CONNECTOR")
    assert "no connector" in error.value.message


async def test_a_missing_pipeline_is_not_found_with_its_id(client: PipelineClient) -> None:
    with pytest.raises(RpcError, match="'first'") as error:
        await get(client)
    assert (error.value.code, error.value.reason) == (code_pb2.NOT_FOUND, "PIPELINE_NOT_FOUND")


async def test_pipelines_are_paged_in_the_order_of_their_ids(client: PipelineClient) -> None:
    for name in ("carol", "alice", "bobby"):
        await create(client, pipeline(name))
    first = await client.list_pipelines(pb.ListPipelinesRequest(page_size=2))
    assert [one.id for one in first.pipelines] == ["alice", "bobby"]
    rest = await client.list_pipelines(
        pb.ListPipelinesRequest(page_size=2, page_token=first.next_page_token)
    )
    assert [one.id for one in rest.pipelines] == ["carol"]
    assert not rest.next_page_token
    assert rest.pipelines[0].config.source.config["api_key"] == MASK


@pytest.mark.parametrize("token", ["x", "ÿ", "bm9wZQ==", "WyJhIiwgImIiXQ=="])
async def test_a_foreign_page_token_is_refused(client: PipelineClient, token: str) -> None:
    with pytest.raises(RpcError) as error:
        await client.list_pipelines(pb.ListPipelinesRequest(page_token=token))
    assert bad_fields(error) == ["page_token"]


async def test_a_negative_page_size_is_refused(client: PipelineClient) -> None:
    with pytest.raises(RpcError) as error:
        await client.list_pipelines(pb.ListPipelinesRequest(page_size=-1))
    assert bad_fields(error) == ["page_size"]


async def test_an_update_changes_only_the_fields_in_the_mask(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    wanted = pb.Pipeline(id="first", desired_status=pb.DESIRED_STATUS_PAUSED)
    wanted.config.source.CopyFrom(connector(api_key="sk_new", base_url="http://elsewhere"))
    wanted.config.streams.append(StreamSelection(name="customers"))
    changed = await update(client, wanted, "config.streams")
    assert [one.name for one in changed.config.streams] == ["customers"]
    assert changed.config.source == created.config.source
    assert changed.desired_status == pb.DESIRED_STATUS_ACTIVE
    assert changed.etag != created.etag
    changed = await update(client, wanted, "config.source")
    assert changed.config.source.config["base_url"] == "http://elsewhere"
    assert changed.config.source.config["api_key"] == MASK
    await check(client)
    config = engine.last(engine_pb.PipelineCheckRequest).pipeline
    assert config.source.config["api_key"] == "sk_new"
    assert config.destination.config["api_key"] == f"{SECRET}_2"
    assert [one.name for one in config.streams] == ["customers"]


async def check(client: PipelineClient) -> None:
    assert [_ async for _ in client.check_pipeline(pb.CheckPipelineRequest(pipeline_id="first"))]


async def test_writing_the_mask_back_keeps_the_secret(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    created.config.source.config.update({"rate": 5, "base_url": "http://here"})
    await update(client, created, "config.source")
    await check(client)
    config = engine.last(engine_pb.PipelineCheckRequest).pipeline.source.config
    assert config["api_key"] == SECRET
    assert config["rate"] == 5


async def test_a_mask_keeps_no_secret_for_another_place(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    config = created.config.source.config
    for field, elsewhere in (("base_url", "http://elsewhere"), ("host", "elsewhere")):
        config[field] = elsewhere
        engine.requests.clear()
        with pytest.raises(RpcError) as error:
            await update(client, created, "config.source")
        assert bad_fields(error) == ["pipeline.config.source.config.api_key"]
        assert f"pipeline.config.source.config.{field}" in error.value.message
        # The other fields are checked, without connections.
        for request in engine.requests:
            assert request.validate_only
            assert request.pipeline.source.config["api_key"] == "********"
    config["api_key"] = "sk_new"
    changed = await update(client, created, "config.source")
    assert changed.config.source.config["host"] == "elsewhere"


async def test_a_mask_without_a_stored_secret_is_refused(
    client: PipelineClient, created: pb.Pipeline
) -> None:
    created.config.source.config["webhook_secret"] = MASK
    with pytest.raises(RpcError) as error:
        await update(client, created, "config.source")
    assert bad_fields(error) == ["pipeline.config.source.config.webhook_secret"]
    wanted = pipeline("second")
    wanted.config.source.config["api_key"] = MASK
    with pytest.raises(RpcError) as error:
        await create(client, wanted)
    assert bad_fields(error) == ["pipeline.config.source.config.api_key"]


@pytest.mark.parametrize("side", ["source", "destination"])
@pytest.mark.parametrize("value", [f"{MASK},whsec_new", f" {MASK}", f"postgresql://u:{MASK}@h/db"])
async def test_a_mask_is_no_part_of_a_secret(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine, side: str, value: str
) -> None:
    field = f"pipeline.config.{side}.config.webhook_secret"
    wanted = pipeline("second")
    for one in (created, wanted):
        getattr(one.config, side).config["webhook_secret"] = value
    for call in (create(client, wanted), update(client, created, f"config.{side}")):
        with pytest.raises(RpcError) as error:
            await call
        assert bad_fields(error) == [field]
        assert "send the mask alone to keep the stored value" in error.value.message
    await check(client)
    sent = engine.last(engine_pb.PipelineCheckRequest).pipeline
    assert "webhook_secret" not in getattr(sent, side).config


async def test_a_mask_keeps_no_secret_of_another_connector(
    client: PipelineClient, created: pb.Pipeline
) -> None:
    created.config.source.type = "other"
    with pytest.raises(RpcError) as error:
        await update(client, created, "config.source")
    assert bad_fields(error) == ["pipeline.config.source.config.api_key"]
    assert "pipeline.config.source.type changed" in error.value.message


async def test_an_unknown_path_in_the_mask_is_named(
    client: PipelineClient, created: pb.Pipeline
) -> None:
    for paths in (["config.sauce"], ["id"], []):
        with pytest.raises(RpcError) as error:
            await update(client, created, *paths)
        assert bad_fields(error) == ["update_mask"]
        assert all(path in error.value.message for path in paths)
    with pytest.raises(RpcError) as error:
        await update(client, created, "postgresql://u:hunter2@h/db")
    assert "a path of it cannot be updated" in error.value.message
    assert "hunter2" not in error.value.message


async def test_an_unknown_path_in_the_mask_hides_no_other_violation(
    client: PipelineClient, created: pb.Pipeline
) -> None:
    created.config.source.type = "unknown"
    created.config.destination.type = "unknown_too"
    with pytest.raises(RpcError) as error:
        await update(client, created, "config.source", "config.sauce", "config.destination")
    assert bad_fields(error) == [
        "update_mask",
        "pipeline.config.source.type",
        "pipeline.config.destination.type",
    ]


async def test_an_update_with_an_old_etag_is_aborted(
    client: PipelineClient, created: pb.Pipeline
) -> None:
    created.desired_status = pb.DESIRED_STATUS_PAUSED
    changed = await update(client, created, "desired_status")
    assert changed.status == pb.PIPELINE_STATUS_PAUSED
    with pytest.raises(RpcError) as error:
        await update(client, created, "desired_status")
    assert (error.value.code, error.value.reason) == (code_pb2.ABORTED, "PIPELINE_CHANGED")


async def test_a_pipeline_can_be_paused_while_the_engine_is_unavailable(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    engine.error = RpcError("gone", code=code_pb2.UNAVAILABLE)
    wanted = pb.Pipeline(id="first", desired_status=pb.DESIRED_STATUS_PAUSED)
    assert (await update(client, wanted, "desired_status")).status == pb.PIPELINE_STATUS_PAUSED


def checked(engine: ScriptedEngine) -> list[engine_pb.ConnectorSide.ValueType]:
    """Return the sides whose connections the engine was asked to check."""
    return [
        request.side
        for request in engine.requests
        if isinstance(request, engine_pb.PipelineCheckRequest) and not request.validate_only
    ]


@pytest.mark.parametrize(
    ("path", "side"),
    [
        ("config.source", engine_pb.CONNECTOR_SIDE_SOURCE),
        ("config.destination", engine_pb.CONNECTOR_SIDE_DESTINATION),
        ("config.streams", engine_pb.CONNECTOR_SIDE_UNSPECIFIED),
    ],
)
async def test_changed_connectors_are_checked_unless_that_is_skipped(
    client: PipelineClient,
    created: pb.Pipeline,
    engine: ScriptedEngine,
    path: str,
    side: engine_pb.ConnectorSide.ValueType,
) -> None:
    engine.requests.clear()
    engine.failing_check = "the API says no"
    wanted = pipeline()
    wanted.config.source.config["api_key"] = "sk_wrong"
    wanted.config.destination.config["api_key"] = "sk_wrong"
    wanted.config.streams.add(name="customers")
    with pytest.raises(RpcError, match="the API says no") as error:
        await update(client, wanted, path)
    assert error.value.reason == "CONNECTION_FAILED"
    assert checked(engine) == [side]
    assert (await get(client)).etag == created.etag
    request = pb.UpdatePipelineRequest(
        pipeline=wanted, update_mask=FieldMask(paths=[path]), skip_check=True
    )
    assert (await client.update_pipeline(request)).pipeline.etag != created.etag
    assert checked(engine) == [side]


async def test_unchanged_connectors_are_not_checked(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    engine.requests.clear()
    engine.failing_check = "the API says no"
    created.desired_status = pb.DESIRED_STATUS_PAUSED
    paths = ("config.source", "config.destination", "config.streams", "desired_status")
    assert (await update(client, created, *paths)).status == pb.PIPELINE_STATUS_PAUSED
    assert checked(engine) == []


async def test_an_update_reports_the_result_of_its_check(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    engine.unreadable_streams = [UnreadableStream(stream="payouts", reason="The key may not.")]
    engine.notices = ["events are rendered in 2020-08-27"]
    created.config.source.config["rate"] = 5
    request = pb.UpdatePipelineRequest(
        pipeline=created, update_mask=FieldMask(paths=["config.source"])
    )
    answer = await client.update_pipeline(request)
    assert list(answer.unreadable_streams) == engine.unreadable_streams
    assert list(answer.notices) == engine.notices
    assert answer.pipeline.config.source.config["rate"] == 5


async def test_a_resumed_pipeline_has_its_previous_status(
    client: PipelineClient, created: pb.Pipeline
) -> None:
    wanted = pb.Pipeline(id="first", desired_status=pb.DESIRED_STATUS_PAUSED)
    await update(client, wanted, "desired_status")
    wanted.desired_status = pb.DESIRED_STATUS_ACTIVE
    assert (await update(client, wanted, "desired_status")).status == created.status


async def test_the_engines_connectors_are_returned(client: PipelineClient) -> None:
    answer = await client.list_pipeline_connectors(
        pb.ListPipelineConnectorsRequest(side=engine_pb.CONNECTOR_SIDE_SOURCE)
    )
    assert [(one.side, one.type) for one in answer.connectors] == [
        (engine_pb.CONNECTOR_SIDE_SOURCE, "scripted")
    ]
