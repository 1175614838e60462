"""Model of histories with the engine's clock up to an hour off: rows equal the account."""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.engine_server.connectors.stripe.skewed_engine import Skewed, run
from tests.stripe_simulator import faults

# A loaded machine, or a thorough run, exceeds the usual limit of a test.
pytestmark = pytest.mark.timeout(3_600)

STREAMS = ("customers", "payment_methods")
# A case costs a hundred times as much as one of the other models.
settings_of_a_case = settings(max_examples=max(20, settings().max_examples // 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of the account.

    Attributes:
        verb: ``create``, ``update`` or ``delete``.
        stream: The stream of the object.
        number: The number of the object.
    """

    verb: str
    stream: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A span of time, and the sync at its end.

    Attributes:
        before: The changes before the sync, each after a number of seconds.
        during: The changes while pages are read, each right after a page.
        latency: Seconds from the reading of a page to its response.
        state_limit: The checkpoints that a request takes; 0 for all.
        restart_with: The skew of another engine that runs the sync; None for the same one.
        ceiling_ahead: How far ahead an unfinished run's end was frozen; None for a new run.
    """

    before: list[tuple[float, Change]] = field(default_factory=list)
    during: list[Change | None] = field(default_factory=list)
    latency: float = 0.0
    state_limit: int = 0
    restart_with: float | None = None
    ceiling_ahead: int | None = None


skews = st.sampled_from([-3_600.0, -15.0, -3.0, 0.0, 0.7, 3.0, 15.0, 3_600.0]) | st.floats(
    -3_600, 3_600
)
changes = st.builds(
    Change,
    verb=st.sampled_from(["create", "update", "update", "delete"]),
    stream=st.sampled_from(STREAMS),
    number=st.integers(0, 5),
)
pauses = st.sampled_from([0.0, 0.3, 1.0, 5.0, 13.0, 70.0])
turns = st.lists(
    st.builds(
        Turn,
        before=st.lists(st.tuples(pauses, changes), max_size=4),
        during=st.lists(st.none() | changes, max_size=4),
        latency=st.sampled_from([0.0, 0.0, 0.4, 2.5]),
        state_limit=st.sampled_from([0, 0, 1]),
        restart_with=st.none() | skews,
        ceiling_ahead=st.none() | st.sampled_from([5, 3_600]),
    ),
    min_size=1,
    max_size=5,
)


def apply(engine: Skewed, change: Change) -> None:
    """Apply a change, if its object exists."""
    simulator = engine.simulator
    if change.verb == "create":
        simulator.create(change.stream)
        return
    ids = sorted(engine.account(change.stream))
    if not ids:
        return
    object_id = ids[change.number % len(ids)]
    if change.verb == "update" or change.stream != "customers":
        text = str(engine.stripe_time())
        simulator.update(change.stream, object_id, {"metadata": {"changed_at": text}})
    else:
        simulator.delete(change.stream, object_id)


async def live(engine: Skewed, turns: list[Turn], *, polls: bool) -> None:
    """Run the turns one after the other."""
    for turn in turns:
        for pause, change in turn.before:
            await asyncio.sleep(pause)
            apply(engine, change)
        if turn.restart_with is not None:
            engine.restart(turn.restart_with)
        if turn.ceiling_ahead is not None:
            end = int(engine.stripe_time()) + turn.ceiling_ahead
            engine.state.sync_run.Clear()
            engine.state.sync_run.time_ceiling.FromSeconds(end)
        pending = iter(turn.during)

        def happen(pending: object = pending) -> None:
            change = next(pending, None)  # type: ignore[call-overload]
            if change is not None:
                apply(engine, change)

        engine.simulator.faults.add(faults.after_read(happen, seconds=turn.latency), times=None)
        await engine.sync(*STREAMS, polls=polls, state_limit=turn.state_limit)
        engine.simulator.faults.clear()


@settings_of_a_case
@given(skew=skews, turns=turns)
def test_with_events_followed_rows_equal_the_account(skew: float, turns: list[Turn]) -> None:
    async def main(engine: Skewed) -> None:
        await live(engine, turns, polls=True)
        # The last run may have been another engine's, by a clock that was behind.
        for _ in range(2):
            await asyncio.sleep(5)
            await engine.sync(*STREAMS, polls=True)
        for stream in STREAMS:
            assert engine.held(stream) == engine.account(stream)

    run(skew, main)


CREATED = [(0.0, Change(verb="create", stream="customers", number=0))]


@settings_of_a_case
@example(skew=0.0, turns=[Turn(), Turn(), Turn(before=CREATED, restart_with=-3_600.0)])
@given(skew=skews, turns=turns)
def test_without_events_every_object_is_read(skew: float, turns: list[Turn]) -> None:
    async def main(engine: Skewed) -> None:
        await live(engine, turns, polls=False)
        for _ in range(2):
            await asyncio.sleep(5)
            await engine.sync(*STREAMS)
        for stream in STREAMS:
            assert engine.held(stream).keys() >= engine.account(stream).keys()

    run(skew, main)
