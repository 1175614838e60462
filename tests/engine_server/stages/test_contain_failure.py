"""Containment of each kind of exception from a connector."""

import asyncio

import pytest
from structlog.testing import capture_logs

from engine_server.connectors.protocols import Messages
from engine_server.errors import ConnectionFailed, ConnectorError
from engine_server.stages.contain_failure import contain_failure
from tests.engine_server.stages.sequences import failing, gathered, given
from tests.messages import checkpoint, connection_failed

FIRST = checkpoint("a")


async def test_messages_without_a_failure_pass_unchanged() -> None:
    told: list[str] = []
    assert await gathered(contain_failure(lambda: given(FIRST), "source/x", told.append)) == [FIRST]
    assert not told


async def test_a_failed_connection_becomes_a_last_connection_status() -> None:
    told: list[str] = []
    messages = failing(ConnectionFailed("the key was refused"), FIRST)
    with capture_logs() as logs:
        contained = await gathered(contain_failure(lambda: messages, "source/x", told.append))
    assert contained == [FIRST, connection_failed("the key was refused")]
    assert not told
    assert [(entry["event"], entry["connector"]) for entry in logs] == [
        ("connection_failed", "source/x")
    ]


async def test_the_message_of_a_connector_error_is_reported() -> None:
    told: list[str] = []
    messages = failing(ConnectorError("the cursor is too old"), FIRST)
    with capture_logs() as logs:
        assert await gathered(contain_failure(lambda: messages, "source/x", told.append)) == [FIRST]
    assert told == ["the cursor is too old"]
    assert [entry["event"] for entry in logs] == ["connector_failed"]


@pytest.mark.parametrize(
    "error",
    [ValueError("sk_live_secret"), TimeoutError("sk_live_secret"), KeyError("sk_live_secret")],
)
async def test_any_other_exception_is_logged_and_reported_without_its_text(
    error: Exception,
) -> None:
    told: list[str] = []
    with capture_logs() as logs:
        contained = await gathered(
            contain_failure(lambda: failing(error, FIRST), "source/x", told.append)
        )
    assert contained == [FIRST]
    kind = type(error).__name__
    assert told == [f"source/x stopped unexpectedly ({kind}); the engine's log has the details"]
    assert [(entry["event"], entry["exc_info"]) for entry in logs] == [("connector_threw", True)]


async def test_cancellation_is_no_failure() -> None:
    told: list[str] = []
    with pytest.raises(asyncio.CancelledError):
        await gathered(
            contain_failure(
                lambda: failing(asyncio.CancelledError(), FIRST), "source/x", told.append
            )
        )
    assert not told


async def test_an_exception_on_the_call_is_contained_as_well() -> None:
    told: list[str] = []

    def start() -> Messages:
        raise KeyError("secret")

    with capture_logs():
        assert await gathered(contain_failure(start, "source/x", told.append)) == []
    [failure] = told
    assert "KeyError" in failure
    assert "secret" not in failure
