"""Heartbeats, with a simulated clock."""

from prometheus_client.parser import text_string_to_metric_families

from service_server.background.heartbeats import Heartbeats, Loop
from service_server.metrics import Metrics


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_loop_is_stalled_once_a_round_exceeds_the_timeout() -> None:
    clock = Clock()
    heartbeats = Heartbeats(timeout=10, clock=clock)
    with heartbeats.watching(Loop.SCHEDULER) as heartbeat:
        clock.now += 10
        assert heartbeats.stalled_loops() == []
        clock.now += 1
        assert heartbeats.stalled_loops() == [Loop.SCHEDULER]
        assert heartbeats.ages() == {Loop.SCHEDULER: 11}
        heartbeat.beat()
        assert heartbeats.stalled_loops() == []
    clock.now += 1000
    assert heartbeats.stalled_loops() == []


def test_an_announced_wait_is_no_stall() -> None:
    clock = Clock()
    heartbeats = Heartbeats(timeout=10, clock=clock)
    with heartbeats.watching(Loop.RUN_PRUNING) as heartbeat:
        heartbeat.beat(3600)
        clock.now += 3610
        assert heartbeats.stalled_loops() == []
        clock.now += 1
        assert heartbeats.stalled_loops() == [Loop.RUN_PRUNING]


def test_each_of_several_loops_with_one_name_is_watched() -> None:
    clock = Clock()
    heartbeats = Heartbeats(timeout=10, clock=clock)
    with heartbeats.watching(Loop.LEASE_RENEWAL) as one:
        with heartbeats.watching(Loop.LEASE_RENEWAL):
            clock.now += 11
            one.beat()
            assert heartbeats.stalled_loops() == [Loop.LEASE_RENEWAL]
            assert heartbeats.ages() == {Loop.LEASE_RENEWAL: 11}
        assert heartbeats.stalled_loops() == []


def test_metrics_have_each_loop_as_a_label() -> None:
    clock = Clock()
    heartbeats = Heartbeats(timeout=10, clock=clock)
    metrics = Metrics(heartbeats)

    def shown(name: str) -> dict[str, float]:
        return {
            sample.labels["loop"]: sample.value
            for family in text_string_to_metric_families(metrics.text(None).decode())
            for sample in family.samples
            if sample.name == name
        }

    with heartbeats.watching(Loop.SCHEDULER), heartbeats.watching(Loop.INBOX_WORKER) as worker:
        heartbeats.count_failure(Loop.SCHEDULER)
        clock.now += 12
        worker.beat()
        assert shown("pipesync_loop_last_round_age_seconds") == {"scheduler": 12, "inbox_worker": 0}
        assert shown("pipesync_loop_stands_still") == {"scheduler": 1, "inbox_worker": 0}
    failures = shown("pipesync_loop_failures_total")
    assert failures["scheduler"] == 1
    assert failures.keys() == {loop.value for loop in Loop}
