"""Wrong input is answered before any work: the status, the field, and one plain sentence."""

import copy
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from google.protobuf.json_format import ParseDict
from google.rpc import code_pb2

from pipesync.v1.pipeline_service_pb2 import (
    CreatePipelineRequest,
    GetPipelineRequest,
    SyncPipelineBatchRequest,
)
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from tests.end_to_end.command import PipelinesCommand
from tests.postgres import PostgresCluster
from tests.processes import CommandResult, running
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

# Nothing listens on that port.
NOWHERE = "127.0.0.1:1"
# Text with a secret in it that no answer may repeat.
BAD_KEY = "sk_test_wrong_and_secret"


# One set of servers for all of these tests: none of them leaves anything in it.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def product(
    postgres_cluster: PostgresCluster, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[PipelinesCommand]:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(
            running("engine_server", "--listen", "127.0.0.1:0")
        )
        directory = tmp_path_factory.mktemp("service")
        service = await stack.enter_async_context(
            running(
                "service_server",
                *("--listen", "127.0.0.1:0", "--engine", engine.address),
                *("--data-dir", str(directory)),
                environment={
                    "PIPESYNC_DATABASE_URL": postgres_cluster.url(
                        await postgres_cluster.create_database()
                    )
                },
            )
        )
        yield PipelinesCommand(
            service=service.address,
            simulator=await stack.enter_async_context(
                StripeSimulator(SeedPlan(counts={"customers": 3}))
            ),
            database_url=postgres_cluster.url(await postgres_cluster.create_database()),
        )


@pytest_asyncio.fixture(loop_scope="module")
async def pipelines(product: PipelinesCommand) -> AsyncIterator[PipelinesCommand]:
    yield product
    await product("delete", "good", "--yes")


def good_pipeline(pipelines: PipelinesCommand) -> dict[str, Any]:
    return {
        "id": "good",
        "config": {
            "source": {
                "type": "stripe",
                "config": {
                    "api_key": pipelines.simulator.api_key,
                    "base_url": pipelines.simulator.base_url,
                },
            },
            "destination": {"type": "postgres", "config": {"url": pipelines.database_url}},
            "streams": [{"name": "customers"}],
        },
    }


def assert_one_sentence(result: CommandResult, *fragments: str) -> None:
    """Assert that the command failed with one line on stderr, no traceback, and these texts."""
    assert result.exit_code != 0
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    for fragment in fragments:
        assert fragment in line


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongPipeline:
    """A pipeline with one thing wrong, and the answer to it.

    Attributes:
        spoil: A function that puts the error into a good pipeline.
        code: The status.
        reason: The reason in its ErrorInfo.
        field: The field that BadRequest names; empty when the error is not about a field.
        says: A text in the message.
    """

    spoil: Callable[[dict[str, Any]], object]
    code: int
    reason: str
    field: str = ""
    says: str


def source_config(pipeline: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = pipeline["config"]["source"]["config"]
    return config


def destination_config(pipeline: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = pipeline["config"]["destination"]["config"]
    return config


WRONG_PIPELINES = {
    "unknown source": WrongPipeline(
        spoil=lambda pipeline: pipeline["config"]["source"].update(type="strip"),
        code=code_pb2.NOT_FOUND,
        reason="UNKNOWN_CONNECTOR",
        field="pipeline.config.source.type",
        says="did you mean stripe?",
    ),
    "unknown destination": WrongPipeline(
        spoil=lambda pipeline: pipeline["config"]["destination"].update(type="mysql"),
        code=code_pb2.NOT_FOUND,
        reason="UNKNOWN_CONNECTOR",
        field="pipeline.config.destination.type",
        says="postgres",
    ),
    "unknown stream": WrongPipeline(
        spoil=lambda pipeline: pipeline["config"]["streams"].append({"name": "custmers"}),
        code=code_pb2.INVALID_ARGUMENT,
        reason="INVALID_REQUEST",
        field="pipeline.config.streams[1].name",
        says="did you mean customers?",
    ),
    "missing field": WrongPipeline(
        spoil=lambda pipeline: source_config(pipeline).pop("api_key"),
        code=code_pb2.INVALID_ARGUMENT,
        reason="INVALID_REQUEST",
        field="pipeline.config.source.config.api_key",
        says="is required",
    ),
    "mistyped field": WrongPipeline(
        spoil=lambda pipeline: destination_config(pipeline).update(batch_size="many"),
        code=code_pb2.INVALID_ARGUMENT,
        reason="INVALID_REQUEST",
        field="pipeline.config.destination.config.batch_size",
        says="integer",
    ),
    "unknown field": WrongPipeline(
        spoil=lambda pipeline: source_config(pipeline).update(api_kye="x"),
        code=code_pb2.INVALID_ARGUMENT,
        reason="INVALID_REQUEST",
        field="pipeline.config.source.config.api_kye",
        says="did you mean api_key?",
    ),
    "id that is not allowed": WrongPipeline(
        spoil=lambda pipeline: pipeline.update(id="1 bad id"),
        code=code_pb2.INVALID_ARGUMENT,
        reason="INVALID_REQUEST",
        field="pipeline.id",
        says="letter",
    ),
    "bad key": WrongPipeline(
        spoil=lambda pipeline: source_config(pipeline).update(api_key=BAD_KEY),
        code=code_pb2.FAILED_PRECONDITION,
        reason="CONNECTION_FAILED",
        says="Invalid API Key",
    ),
    "unreachable API": WrongPipeline(
        spoil=lambda pipeline: source_config(pipeline).update(base_url=f"http://{NOWHERE}"),
        code=code_pb2.FAILED_PRECONDITION,
        reason="CONNECTION_FAILED",
        says=f"http://{NOWHERE}",
    ),
    "unreachable database": WrongPipeline(
        spoil=lambda pipeline: destination_config(pipeline).update(
            url=f"postgresql://nobody:{BAD_KEY}@{NOWHERE}/nothing"
        ),
        code=code_pb2.FAILED_PRECONDITION,
        reason="CONNECTION_FAILED",
        says="Postgres cannot be reached",
    ),
}


@pytest.mark.parametrize("wrong", WRONG_PIPELINES.values(), ids=WRONG_PIPELINES.keys())
async def test_a_wrong_pipeline_is_refused_whole(
    wrong: WrongPipeline, pipelines: PipelinesCommand, tmp_path: Path
) -> None:
    pipeline = copy.deepcopy(good_pipeline(pipelines))
    wrong.spoil(pipeline)
    async with PipelineClient(pipelines.service) as client:
        with pytest.raises(RpcError) as raised:
            await client.create_pipeline(ParseDict({"pipeline": pipeline}, CreatePipelineRequest()))
    error = raised.value
    assert (error.code, error.reason) == (wrong.code, wrong.reason)
    assert [violation.field for violation in error.field_violations] == (
        [wrong.field] if wrong.field else []
    )
    assert wrong.says in error.message
    assert BAD_KEY not in str(error)

    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump(pipeline))
    result = await pipelines("create", "-f", str(path))
    assert_one_sentence(result, wrong.field, wrong.says)
    assert BAD_KEY not in result.stderr
    assert (await pipelines("list")).stdout.count("good") == 0


async def test_every_bad_field_is_named_at_once(pipelines: PipelinesCommand) -> None:
    pipeline = good_pipeline(pipelines)
    source_config(pipeline).pop("api_key")
    destination_config(pipeline).update(batch_size="many")
    async with PipelineClient(pipelines.service) as client:
        with pytest.raises(RpcError) as raised:
            await client.create_pipeline(ParseDict({"pipeline": pipeline}, CreatePipelineRequest()))
    assert {violation.field for violation in raised.value.field_violations} == {
        "pipeline.config.source.config.api_key",
        "pipeline.config.destination.config.batch_size",
    }


async def test_a_taken_id(pipelines: PipelinesCommand) -> None:
    assert (await pipelines.create("good", ["customers"])).exit_code == 0
    async with PipelineClient(pipelines.service) as client:
        with pytest.raises(RpcError) as raised:
            await client.create_pipeline(
                ParseDict({"pipeline": good_pipeline(pipelines)}, CreatePipelineRequest())
            )
    assert raised.value.code == code_pb2.ALREADY_EXISTS
    assert_one_sentence(await pipelines.create("good", ["customers"]), "good", "already")


async def test_an_update_to_an_unknown_stream_changes_nothing(pipelines: PipelinesCommand) -> None:
    assert (await pipelines.create("good", ["customers"])).exit_code == 0
    result = await pipelines("update", "good", "--stream", "custmers")
    assert_one_sentence(result, "pipeline.config.streams[0].name", "did you mean customers?")
    assert "custmers" not in (await pipelines("get", "good")).stdout


async def test_a_missing_pipeline(pipelines: PipelinesCommand) -> None:
    async with PipelineClient(pipelines.service) as client:
        with pytest.raises(RpcError) as raised:
            await client.get_pipeline(GetPipelineRequest(pipeline_id="absent"))
        assert raised.value.code == code_pb2.NOT_FOUND
        with pytest.raises(RpcError) as raised:
            await client.sync_pipeline_batch(SyncPipelineBatchRequest(pipeline_id="absent"))
        assert raised.value.code == code_pb2.NOT_FOUND
    assert_one_sentence(await pipelines("get", "absent"), "absent")
    assert_one_sentence(await pipelines("sync_batch", "absent"), "absent")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--loop", "x"), ("--loop", "-1"), ("--state-limit", "0"), ("--state-limit", "ten")],
)
async def test_a_number_that_is_none_is_refused_by_name(
    option: str, value: str, pipelines: PipelinesCommand
) -> None:
    assert_one_sentence(await pipelines("sync_batch", "absent", option, value), option)


async def test_a_negative_state_limit_is_refused_by_field(pipelines: PipelinesCommand) -> None:
    assert (await pipelines.create("good", ["customers"])).exit_code == 0
    async with PipelineClient(pipelines.service) as client:
        with pytest.raises(RpcError) as raised:
            await client.sync_pipeline_batch(
                SyncPipelineBatchRequest(pipeline_id="good", state_limit=-1)
            )
    assert raised.value.code == code_pb2.INVALID_ARGUMENT
    assert [violation.field for violation in raised.value.field_violations] == ["state_limit"]
