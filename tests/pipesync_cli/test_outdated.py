"""Notes on streams whose older rows lack fields."""

import json

import pytest

from pipesync.v1.message_pb2 import Message
from pipesync.v1.state_pb2 import Eof
from tests.pipesync_cli.program import pipelines_of
from tests.pipesync_cli.scripted_service import scripted_service
from tests.pipesync_cli.test_sync import done

LACKING = "orders: older rows lack fields that were added since these streams were read: "


def outdated(*names: str) -> Eof:
    """Return the end of a successful call that left these streams outdated."""
    eof = done()
    eof.outdated_streams.extend(names)
    return eof


@pytest.mark.parametrize("command", ["sync", "sync_batch", "reconcile"])
async def test_outdated_streams_are_named_with_the_commands_to_run(command: str) -> None:
    service = scripted_service()
    eof = outdated("customers", "prices")
    service.ends, service.messages = [eof], [Message(eof=eof)]
    outcome = await pipelines_of(service, command, "orders")
    assert outcome.code == 0
    [sentence] = [line for line in outcome.stderr.splitlines() if "lack" in line]
    assert sentence.startswith(f"{LACKING}customers, prices. ")
    assert "Run pipelines setup orders, then pipelines reconcile orders (" in sentence
    assert "lack" not in outcome.stdout


async def test_many_outdated_streams_are_counted() -> None:
    service = scripted_service()
    service.ends = [outdated(*(f"s{number}" for number in range(12)))]
    outcome = await pipelines_of(service, "sync_batch", "orders")
    assert "s8, s9 and 2 more. Run" in outcome.stderr


async def test_streams_that_were_read_again_are_named() -> None:
    service = scripted_service()
    eof = done()
    eof.renewed_streams.append("customers")
    service.ends = [eof]
    outcome = await pipelines_of(service, "reconcile", "orders")
    assert "read again, with the fields that were added: customers. If setup has" in outcome.stderr
    assert "lack" not in outcome.stderr


async def test_raw_lists_outdated_streams_in_the_result_only() -> None:
    service = scripted_service()
    service.ends = [outdated("customers")]
    outcome = await pipelines_of(service, "sync_batch", "orders", "--raw")
    assert outcome.stderr == ""
    [result] = map(json.loads, outcome.lines)
    assert result["outdated_streams"] == ["customers"]


async def test_a_sync_without_outdated_streams_prints_no_note() -> None:
    service = scripted_service()
    service.ends = [done()]
    outcome = await pipelines_of(service, "sync_batch", "orders")
    assert "lack" not in outcome.stderr
