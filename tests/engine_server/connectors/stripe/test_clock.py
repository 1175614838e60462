"""Stripe's clock as estimated from responses."""

import time
from email.utils import formatdate

import pytest

from engine_server.connectors.stripe.api.clock import ServerClock

# The time of Stripe's clock when the monotonic one shows 0.
ZERO = 1_790_000_000


class Machine:
    """The two clocks of a machine.

    Attributes:
        now: The monotonic one.
        ahead: The seconds that the other one is ahead of Stripe's.
    """

    def __init__(self) -> None:
        self.now = 1_000.0
        self.ahead = 0.0

    def wall(self) -> float:
        return ZERO + self.now + self.ahead


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(time, "monotonic", lambda: machine.now)
    monkeypatch.setattr(time, "time", machine.wall)
    return machine


def headers(date: float, **others: str) -> dict[str, str]:
    return {"Date": formatdate(date, usegmt=True), **others}


def answer(
    clock: ServerClock, machine: Machine, *, takes: float = 0.2, stray: float = 0.0, **others: str
) -> int:
    """Observe a response created halfway, and return the age of its ``time_of_read``."""
    sent = machine.now
    machine.now += takes
    shown = headers(ZERO + sent + takes / 2 + stray, **others)
    clock.observe(shown, sent=sent, received=machine.now)
    known_until = clock.time_of_read(shown, sent=sent, received=machine.now)
    return int(ZERO + sent) - known_until


@pytest.mark.parametrize("ahead", [-3_600.0, -1.0, 0.0, 3.0, 3_600.0])
@pytest.mark.parametrize(("takes", "ago"), [(0.2, 2), (1.0, 2), (1.5, 3), (9.5, 7)])
def test_the_time_of_a_read_is_the_date_minus_the_duration_minus_one(
    machine: Machine, ahead: float, takes: float, ago: int
) -> None:
    machine.ahead = ahead
    assert answer(ServerClock(), machine, takes=takes) == ago


@pytest.mark.parametrize("stray", [-3_600.0, -5.0, 5.0, 3_600.0])
def test_an_outlying_date_is_ignored(machine: Machine, stray: float) -> None:
    clock, machine.ahead = ServerClock(), 7.0
    for _ in range(3):
        answer(clock, machine)
        machine.now += 10.3
    assert answer(clock, machine, stray=stray) in (1, 2)
    assert answer(clock, machine) == 2


def test_the_earlier_of_two_contradicting_dates_is_used(machine: Machine) -> None:
    clock = ServerClock()
    assert answer(clock, machine, stray=3_600) == 2 - 3_600
    assert answer(clock, machine) == 2
    assert answer(clock, machine) == 2
    assert clock.latest() < ZERO + machine.now + 2


def test_a_cached_response_is_as_old_as_its_age(machine: Machine) -> None:
    clock = ServerClock()
    for _ in range(3):
        answer(clock, machine)
    assert answer(clock, machine, stray=-30, Age="30") in (32, 33)


def test_a_clock_that_agrees_with_the_responses_is_used(machine: Machine) -> None:
    clock, machine.ahead = ServerClock(), 0.1
    answer(clock, machine)
    assert clock.earliest() == clock.latest() == machine.wall()
    machine.ahead = 60.0
    assert clock.earliest() <= ZERO + machine.now <= clock.latest()
    skew = clock.skew()
    assert skew is not None
    assert abs(skew - 60) < 1


def test_old_responses_are_forgotten(machine: Machine) -> None:
    clock, machine.ahead = ServerClock(), 60.0
    answer(clock, machine)
    known_before = clock.is_known
    machine.now += 4_000
    assert (known_before, clock.is_known) == (True, False)
    assert clock.skew() is None
    assert clock.latest() == machine.wall()


def test_after_a_suspension_only_new_responses_are_used(machine: Machine) -> None:
    clock = ServerClock()
    for _ in range(16):
        answer(clock, machine)
    # The monotonic clock stood still meanwhile.
    for _ in range(9):
        answer(clock, machine, stray=500)
    assert answer(clock, machine, stray=500) == 2 - 500
