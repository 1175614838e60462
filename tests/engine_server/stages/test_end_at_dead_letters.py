"""A request ends at the limit of dead letters in its eof."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest

from engine_server import dead_letters
from engine_server.stages.end_at_dead_letters import end_at_dead_letters
from pipesync.v1.message_pb2 import Message, StateCheckpoint
from pipesync.v1.state_pb2 import DeadLetter


def letter(name: str, size: int = 0) -> Message:
    return Message(dead_letter=DeadLetter(event_id=name, event_json=b"x" * size))


def state(data: str, stream: str = "") -> Message:
    return Message(source_state=StateCheckpoint(stream=stream, data=data))


async def through(messages: Sequence[Message]) -> tuple[list[str], list[str]]:
    """Return the messages that pass, by name, and the calls made."""
    notes: list[str] = []

    async def source() -> AsyncGenerator[Message, None]:
        for message in messages:
            yield message

    stage = end_at_dead_letters(
        source(), on_limit_reached=lambda: notes.append("cut"), on_failure=notes.append
    )
    async with aclosing(stage) as passed:
        names = [each.dead_letter.event_id or each.source_state.data async for each in passed]
    return names, notes


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "MOST_LETTERS", 2)
    monkeypatch.setattr(dead_letters, "MOST_BYTES", 1000)


async def test_the_request_ends_with_the_checkpoint_after_the_limit() -> None:
    sent = [letter("a"), state("1"), letter("b"), state("s", "customers"), state("2"), letter("c")]
    assert await through(sent) == (["a", "1", "b", "s", "2"], ["cut"])


async def test_the_limit_in_bytes_ends_the_request_as_well() -> None:
    sent = [letter("a", 1100), state("1"), letter("b"), state("2")]
    assert await through(sent) == (["a", "1"], ["cut"])


async def test_below_the_limit_all_messages_pass() -> None:
    assert await through([letter("a"), state("1")]) == (["a", "1"], [])


async def test_a_source_without_checkpoints_fails_instead_of_repeating_forever() -> None:
    passed, [note] = await through([letter(name) for name in "abcdef"])
    assert passed == list("abcd")
    assert "without a checkpoint behind them" in note


async def test_a_source_with_an_earlier_checkpoint_is_cut_off() -> None:
    assert await through([state("1"), *map(letter, "abcdef")]) == (
        ["1", "a", "b", "c", "d"],
        ["cut"],
    )
