"""Data is removed only after the user has seen the plan, and agreed."""

import pytest

from pipesync.v1 import pipeline_service_pb2 as contract
from pipesync.v1.engine_service_pb2 import CONNECTOR_SIDE_SOURCE
from pipesync.v1.message_pb2 import Log, Message, PlannedRemoval
from tests.pipesync_cli.program import pipelines_of
from tests.pipesync_cli.scripted_service import ScriptedService, scripted_service

DESTINATION = "destination/postgres"
DROPPED = 'dropped table "stripe"."customers"'
SHOWN = """  source/stripe: webhook endpoint we_1: for https://example.com
  destination/postgres: table "stripe"."customers" (about 12,400 rows)
  destination/postgres: rows of table "stripe"."invoices" (about 0 rows): those of account acct_1
  destination/postgres: schema "stripe"
  destination/postgres: something else
"""


def removal(emitted_by: str = DESTINATION, **fields: object) -> Message:
    planned = PlannedRemoval(**fields)  # type: ignore[arg-type]  # any field
    return Message(emitted_by=emitted_by, planned_removal=planned)


def log(sentence: str) -> Message:
    return Message(emitted_by=DESTINATION, log=Log(level=Log.LEVEL_INFO, message=sentence))


@pytest.fixture
def service() -> ScriptedService:
    service = scripted_service()
    service.pipelines["orders"] = contract.Pipeline(id="orders")
    service.messages = [log(DROPPED)]
    service.plan = [
        removal(
            "source/stripe",
            kind=PlannedRemoval.KIND_WEBHOOK_ENDPOINT,
            name="we_1",
            note="for https://example.com",
        ),
        removal(
            kind=PlannedRemoval.KIND_TABLE,
            name='"stripe"."customers"',
            estimated_row_count=12_400,
        ),
        removal(
            kind=PlannedRemoval.KIND_ROWS,
            name='"stripe"."invoices"',
            estimated_row_count=0,
            note="those of account acct_1",
        ),
        removal(kind=PlannedRemoval.KIND_SCHEMA, name='"stripe"'),
        removal(name="something else"),
        log("table x would be left alone"),
    ]
    return service


# Each with the etag of the planned pipeline.
CONFIRMED_DELETE = contract.DeletePipelineRequest(pipeline_id="orders", etag="e1")
CONFIRMED_TEARDOWN = contract.TeardownPipelineRequest(pipeline_id="orders", etag="e1")
PLANNED_DELETE = contract.DeletePipelineRequest(pipeline_id="orders", validate_only=True)
PLANNED_TEARDOWN = contract.TeardownPipelineRequest(pipeline_id="orders", validate_only=True)
COMMANDS = pytest.mark.parametrize(
    ("command", "requests", "done", "in_service"),
    [
        (
            "delete",
            [PLANNED_DELETE, CONFIRMED_DELETE],
            "orders deleted\n",
            "  service: the pipeline itself, with its state, runs and webhook events\n",
        ),
        (
            "teardown",
            [PLANNED_TEARDOWN, CONFIRMED_TEARDOWN],
            "orders torn down\n",
            "  service: its state\n",
        ),
    ],
)


@COMMANDS
async def test_removal_shows_the_plan_and_asks(
    service: ScriptedService, command: str, requests: list[object], done: str, in_service: str
) -> None:
    outcome = await pipelines_of(service, command, "orders", answer="y\n")
    assert (outcome.code, outcome.stdout) == (0, done)
    assert service.requests == requests
    assert SHOWN + in_service + "Remove this? [y/N]\n" in outcome.stderr
    assert "table x would be left alone" in outcome.stderr
    assert DROPPED in outcome.stderr.partition("Remove this?")[2]


@COMMANDS
@pytest.mark.parametrize("answer", ["n\n", "\n", "\x04", "yellow\n"])
async def test_nothing_is_removed_without_confirmation(
    service: ScriptedService,
    command: str,
    requests: list[object],
    done: str,
    in_service: str,
    answer: str,
) -> None:
    outcome = await pipelines_of(service, command, "orders", answer=answer)
    assert (outcome.code, outcome.stdout) == (1, "")
    assert outcome.stderr.endswith("nothing was removed\n")
    assert service.requests == requests[:1]


@COMMANDS
async def test_removal_without_a_terminal_is_refused_in_one_sentence(
    service: ScriptedService, command: str, requests: list[object], done: str, in_service: str
) -> None:
    outcome = await pipelines_of(service, command, "orders")
    assert (outcome.code, outcome.stdout) == (2, "")
    assert outcome.stderr == (
        "Error: there is no terminal to ask at: give --yes to remove the data without asking\n"
    )
    assert service.requests == []


@COMMANDS
@pytest.mark.parametrize("flag", ["--yes", "-y"])
async def test_yes_skips_the_question_and_reports_the_removal(
    service: ScriptedService,
    command: str,
    requests: list[object],
    done: str,
    in_service: str,
    flag: str,
) -> None:
    outcome = await pipelines_of(service, command, "orders", flag)
    assert (outcome.code, outcome.stdout) == (0, done)
    assert outcome.stderr == f"info: destination/postgres: {DROPPED}\n"
    [request] = service.requests
    assert isinstance(request, contract.DeletePipelineRequest | contract.TeardownPipelineRequest)
    assert (request.pipeline_id, request.etag) == ("orders", "")
    assert not request.validate_only


async def test_the_plan_has_the_options_of_the_removal(service: ScriptedService) -> None:
    await pipelines_of(service, "delete", "orders", "--skip-teardown", answer="yes\n")
    outcome = await pipelines_of(service, "teardown", "orders", "--only", "source", answer="y\n")
    assert "service:" not in outcome.stderr
    for planned, done in zip(service.requests[::2], service.requests[1::2], strict=True):
        assert isinstance(
            planned, contract.DeletePipelineRequest | contract.TeardownPipelineRequest
        )
        assert planned.validate_only
        planned.validate_only, planned.etag = False, "e1"
        assert planned == done
    delete, teardown = service.requests[1::2]
    assert isinstance(delete, contract.DeletePipelineRequest)
    assert delete.skip_teardown
    assert isinstance(teardown, contract.TeardownPipelineRequest)
    assert teardown.side == CONNECTOR_SIDE_SOURCE
