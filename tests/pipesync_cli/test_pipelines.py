"""Commands on stored pipelines, and the reports of errors."""

import json
from pathlib import Path

import yaml
from google.protobuf.struct_pb2 import Struct
from google.rpc import code_pb2

from pipesync.v1 import pipeline_service_pb2 as contract
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, StreamSelection
from pipesync.v1.progress_pb2 import UnreadableStream
from pipesync_rpc.errors import FieldViolation, RpcError
from pipesync_server.tokens import hash_token
from tests.pipesync_cli.program import pipelines, pipelines_of
from tests.pipesync_cli.scripted_service import scripted_service, serving


def struct(**values: str | int | bool) -> Struct:
    """Return a configuration."""
    config = Struct()
    config.update(values)
    return config


def stored(pipeline_id: str = "orders") -> contract.Pipeline:
    """Return a pipeline as the service shows it, its secrets masked."""
    return contract.Pipeline(
        id=pipeline_id,
        config=PipelineConfig(
            source=Connector(
                type="stripe", config=struct(api_key="********", rate_limit=20, websocket=True)
            ),
            destination=Connector(type="postgres", config=struct(url="********", schema="s")),
            streams=[StreamSelection(name="customers")],
        ),
        desired_status=contract.DESIRED_STATUS_ACTIVE,
        status=contract.PIPELINE_STATUS_READY,
        etag="e1",
    )


async def test_flags_make_a_pipeline_and_secrets_stay_off_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://u:p@db/x\n")
    service = scripted_service()
    outcome = await pipelines_of(
        service,
        *("create", "orders", "--source", "stripe", "--source-config", "api_key=@env:THE_KEY"),
        *("--source-config", "rate_limit=20", "--source-config", "websocket=true"),
        *("--destination", "postgres", "--destination-config", f"url=@file:{tmp_path}/url"),
        *("--stream", "customers", "--stream", "prices", "--skip-check"),
        # As the scripted service shows it.
        environment={"THE_KEY": "a-key"},
    )
    assert (outcome.code, outcome.stderr) == (0, "")
    (request,) = service.requests
    assert request == contract.CreatePipelineRequest(
        pipeline=contract.Pipeline(
            id="orders",
            config=PipelineConfig(
                source=Connector(
                    type="stripe",
                    config=struct(api_key="a-key", rate_limit=20, websocket=True),
                ),
                destination=Connector(type="postgres", config=struct(url="postgresql://u:p@db/x")),
                streams=[StreamSelection(name="customers"), StreamSelection(name="prices")],
            ),
        ),
        skip_check=True,
    )


async def test_create_warns_of_streams_that_cannot_be_read() -> None:
    service = scripted_service()
    service.unreadable_streams = [UnreadableStream(stream="payouts", reason="The key may not.")]
    service.notices = ["events are rendered in 2020-08-27"]
    outcome = await pipelines_of(service, "create", "orders", "--source", "stripe")
    assert outcome.code == 0
    assert outcome.stderr == (
        "warning: cannot read payouts: The key may not.\nnote: events are rendered in 2020-08-27\n"
    )
    assert yaml.safe_load(outcome.stdout)["id"] == "orders"


async def test_create_accepts_the_output_of_get(tmp_path: Path) -> None:
    service = scripted_service()
    service.pipelines["orders"] = stored()
    printed = await pipelines_of(service, "get", "orders")
    assert yaml.safe_load(printed.stdout)["desired_status"] == "active"
    file = tmp_path / "orders.yaml"
    file.write_text(printed.stdout.replace("'********'", "'@env:SECRET'"))
    outcome = await pipelines_of(
        service, "create", "copy", "-f", str(file), environment={"SECRET": "hidden"}
    )
    assert outcome.code == 0
    expected = stored("copy")
    expected.config.source.config["api_key"] = "hidden"
    expected.config.destination.config["url"] = "hidden"
    assert service.pipelines["copy"] == expected


async def test_list_prints_every_page() -> None:
    service = scripted_service()
    service.pipelines = {name: stored(name) for name in ("a-1", "b-2", "c-3", "d-4", "e-5")}
    outcome = await pipelines_of(service, "list")
    assert [line.split()[0] for line in outcome.lines] == ["ID", "a-1", "b-2", "c-3", "d-4", "e-5"]
    words = outcome.lines[1].split()
    assert words[1:6] == ["ready", "active", "unspecified", "stripe", "postgres"]
    raw = await pipelines_of(service, "list", "--raw")
    assert [json.loads(line)["id"] for line in raw.lines] == list(service.pipelines)


async def test_update_replaces_the_given_keys_and_keeps_masked_secrets() -> None:
    service = scripted_service()
    service.pipelines["orders"] = stored()
    outcome = await pipelines_of(
        service, "update", "orders", "--source-config", "rate_limit=5", "--etag", "e1"
    )
    assert outcome.code == 0
    update = service.requests[-1]
    assert isinstance(update, contract.UpdatePipelineRequest)
    assert list(update.update_mask.paths) == ["config.source"]
    assert update.pipeline.config.source == Connector(
        type="stripe", config=struct(api_key="********", rate_limit=5, websocket=True)
    )
    assert update.pipeline.etag == "e1"


async def test_update_prints_the_results_of_the_check_and_can_skip_it() -> None:
    service = scripted_service()
    service.unreadable_streams = [UnreadableStream(stream="payouts", reason="The key may not.")]
    service.notices = ["events are rendered in 2020-08-27"]
    arguments = ("update", "orders", "--stream", "payouts")
    outcome = await pipelines_of(service, *arguments)
    assert outcome.stderr == (
        "warning: cannot read payouts: The key may not.\nnote: events are rendered in 2020-08-27\n"
    )
    await pipelines_of(service, *arguments, "--skip-check")
    checked, unchecked = service.requests
    assert isinstance(checked, contract.UpdatePipelineRequest)
    assert isinstance(unchecked, contract.UpdatePipelineRequest)
    assert not checked.skip_check
    assert unchecked.skip_check


async def test_update_changes_only_what_a_file_and_flags_give(tmp_path: Path) -> None:
    file = tmp_path / "change.yaml"
    file.write_text("sync_policy: manual\nconfig:\n  destination:\n    type: postgres\n")
    service = scripted_service()
    outcome = await pipelines_of(
        service, "update", "orders", "-f", str(file), "--stream", "invoices"
    )
    assert outcome.code == 0
    (update,) = service.requests
    assert isinstance(update, contract.UpdatePipelineRequest)
    assert list(update.update_mask.paths) == [
        "config.destination",
        "sync_policy",
        "config.streams",
    ]
    assert update.pipeline.sync_policy == contract.SYNC_POLICY_MANUAL


async def test_pause_and_resume() -> None:
    service = scripted_service()
    service.pipelines["orders"] = stored()
    async with serving(service) as address:
        outcomes = [
            await pipelines("--service", address, *arguments)
            for arguments in (
                ["pause", "orders"],
                ["resume", "orders"],
            )
        ]
    assert [outcome.stdout for outcome in outcomes] == ["orders paused\n", "orders resumed\n"]
    pause, resume = service.requests
    assert isinstance(pause, contract.UpdatePipelineRequest)
    assert isinstance(resume, contract.UpdatePipelineRequest)
    assert list(pause.update_mask.paths) == ["desired_status"]
    assert pause.pipeline.desired_status == contract.DESIRED_STATUS_PAUSED
    assert resume.pipeline.desired_status == contract.DESIRED_STATUS_ACTIVE


async def test_an_error_is_one_sentence_and_exit_code_1() -> None:
    outcome = await pipelines_of(scripted_service(), "get", "nobody")
    assert (outcome.code, outcome.stdout) == (1, "")
    assert outcome.stderr == "Error: there is no pipeline nobody\n"


async def test_every_bad_field_is_named() -> None:
    service = scripted_service()
    service.raises = RpcError(
        "two fields are wrong",
        code=code_pb2.INVALID_ARGUMENT,
        field_violations=[
            FieldViolation("pipeline.config.source.config.api_key", "is required"),
            FieldViolation("pipeline.id", "is too short"),
        ],
    )
    outcome = await pipelines_of(service, "create", "a")
    assert (outcome.code, outcome.stdout) == (1, "")
    assert outcome.stderr == (
        "Error: pipeline.config.source.config.api_key: is required; pipeline.id: is too short\n"
    )


async def test_an_unreachable_service_is_named() -> None:
    outcome = await pipelines("--service", "127.0.0.1:1", "list")
    assert (outcome.code, outcome.stdout) == (1, "")
    assert outcome.stderr == (
        "Error: the server at 127.0.0.1:1 cannot be reached: connection refused\n"
    )


async def test_a_wrong_command_exits_2_in_one_line() -> None:
    outcome = await pipelines("sing")
    assert (outcome.code, outcome.stderr) == (2, "Error: No such command 'sing'.\n")


async def test_the_token_and_a_trace_travel_with_each_call() -> None:
    service = scripted_service()
    async with serving(service, token_hashes=[hash_token("abc")]) as address:
        refused = await pipelines("--service", address, "list")
        outcome = await pipelines(
            "--service", address, "list", environment={"PIPESYNC_TOKEN": "abc"}
        )
    assert refused.stderr == "Error: this server requires a token, and the call has none\n"
    assert outcome.code == 0
    assert service.metadata["traceparent"].startswith("00-")
    assert len(service.metadata["x-request-id"]) == 32


async def test_a_pipeline_is_made_continuous_and_manual() -> None:
    service = scripted_service()
    made = await pipelines_of(service, "create", "orders", "--source", "stripe", "--continuous")
    assert yaml.safe_load(made.stdout)["sync_policy"] == "continuous"
    changed = await pipelines_of(service, "update", "orders", "--sync-policy", "manual")
    assert yaml.safe_load(changed.stdout)["sync_policy"] == "manual"
    create, update = service.requests
    assert isinstance(create, contract.CreatePipelineRequest)
    assert create.pipeline.sync_policy == contract.SYNC_POLICY_CONTINUOUS
    assert isinstance(update, contract.UpdatePipelineRequest)
    assert list(update.update_mask.paths) == ["sync_policy"]
    refused = await pipelines_of(service, "update", "orders", "--sync-policy", "hourly")
    assert refused.code == 2
    assert "sync-policy" in refused.stderr


async def test_a_list_shows_the_status_and_reason_of_each_pipeline() -> None:
    service = scripted_service()
    broken = stored()
    broken.sync_policy = contract.SYNC_POLICY_CONTINUOUS
    broken.status = contract.PIPELINE_STATUS_ERROR
    broken.status_message = "sync failed once:\nno route"
    service.pipelines = {"orders": broken}
    outcome = await pipelines_of(service, "list")
    assert outcome.code == 0
    for word in ("error", "continuous", "sync failed once: no route"):
        assert word in outcome.lines[1]
