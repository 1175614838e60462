"""Tests for the rate limit of log events."""

from structlog import get_logger
from structlog.testing import capture_logs

from service_server.floods import FloodLog


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_one_event_a_second_is_logged_with_the_count() -> None:
    clock, log = Clock(), get_logger()
    floods = FloodLog(clock)
    with capture_logs() as logs:
        for _ in range(1000):
            floods.log(log.info, "refused", "a", path="/x")
        clock.now += 1
        for _ in range(1000):
            floods.log(log.info, "refused", "a", path="/y")
    assert [(line["path"], line.get("count")) for line in logs] == [("/x", None), ("/y", 1000)]


def test_each_kind_is_logged_independently() -> None:
    floods, log = FloodLog(Clock()), get_logger()
    with capture_logs() as logs:
        for kind in ("a", "b", "a", "b"):
            floods.log(log.info, "refused", kind, kind=kind)
            floods.log(log.info, "ended", kind, kind=kind)
    assert len(logs) == 4
