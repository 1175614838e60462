"""Limit on checkpoints, by example and compared with a model."""

import pytest
from hypothesis import given as for_any
from hypothesis import strategies as st

from engine_server.stages.take_through_states import take_through_states
from pipesync.v1.message_pb2 import Message
from tests.engine_server.stages.sequences import Calls, gathered, given, nothing_after
from tests.messages import checkpoint, completed, global_checkpoint, record_batch, rows_written

MESSAGES = [
    record_batch("a", {"id": 1}),
    checkpoint("a"),
    rows_written("a", inserted=1),
    global_checkpoint(),
    record_batch("b", {"id": 1}),
    checkpoint("b"),
    completed("b"),
]


async def test_messages_through_the_nth_checkpoint_pass_and_no_more_are_read() -> None:
    reached = Calls()
    taken = await gathered(take_through_states(nothing_after(*MESSAGES[:2]), 1, reached))
    assert taken == MESSAGES[:2]
    assert reached.count == 1


async def test_shared_checkpoints_count() -> None:
    reached = Calls()
    taken = await gathered(take_through_states(given(*MESSAGES), 2, reached))
    assert taken == MESSAGES[:4]
    assert reached.count == 1


async def test_a_limit_at_the_last_checkpoint_cuts_off_later_messages() -> None:
    reached = Calls()
    assert await gathered(take_through_states(given(*MESSAGES), 3, reached)) == MESSAGES[:6]
    assert reached.count == 1


async def test_a_limit_that_is_not_reached_changes_nothing() -> None:
    reached = Calls()
    assert await gathered(take_through_states(given(*MESSAGES), 4, reached)) == MESSAGES
    assert reached.count == 0


async def test_the_limit_is_reported_before_its_checkpoint() -> None:
    reached = Calls()
    taken = take_through_states(given(*MESSAGES), 1, reached)
    async for message in taken:
        assert reached.count == message.HasField("source_state")


async def test_applied_twice_each_counts_from_zero() -> None:
    inner, outer = Calls(), Calls()
    twice = take_through_states(take_through_states(given(*MESSAGES), 2, inner), 2, outer)
    assert await gathered(twice) == MESSAGES[:4]
    assert (inner.count, outer.count) == (1, 1)


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_limit_below_1_is_an_error(limit: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1, not {limit}"):
        await gathered(take_through_states(given(*MESSAGES), limit, Calls()))


@for_any(
    messages=st.lists(st.sampled_from(MESSAGES)),
    limits=st.lists(st.integers(min_value=1, max_value=6), min_size=1, max_size=3),
)
async def test_nested_limits_cut_at_the_smallest(
    messages: list[Message], limits: list[int]
) -> None:
    stage = given(*messages)
    reached = [Calls() for _ in limits]
    for limit, calls in zip(limits, reached, strict=True):
        stage = take_through_states(stage, limit, calls)
    expected = through_states(messages, min(limits))
    assert await gathered(stage) == expected
    taken = sum(message.HasField("source_state") for message in expected)
    assert [calls.count for calls in reached] == [int(taken >= limit) for limit in limits]


def through_states(messages: list[Message], limit: int) -> list[Message]:
    """Return the expected messages, computed by list indices."""
    places = [place for place, message in enumerate(messages) if message.HasField("source_state")]
    return messages[: places[limit - 1] + 1] if len(places) >= limit else messages
