"""What Prometheus is told of this process and of the inbox."""

import math
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service_server.heartbeats import Heartbeats, Loop
from service_server.store.inbox import Backlog

# From a read that is in memory to a batch that takes minutes, in seconds.
_RPC_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 15, 60, 300)


class Metrics:
    """All metrics, in a registry of their own.

    Attributes:
        deliveries: Webhook deliveries that this process answered, by ``ingress`` and ``outcome``.
        rpc_seconds: How long the calls that this process answered took, by ``method`` and ``code``.
        events_applied: Webhook events that this process brought to their destination.
        events_set_aside: Webhook events that this process set aside.
        syncs_running: Syncs that this process runs now.
    """

    def __init__(self, heartbeats: Heartbeats | None = None) -> None:
        """Register all of them; ``heartbeats`` are those of the background loops."""
        self._registry = CollectorRegistry()
        self._registry.register(_LoopMetrics(heartbeats or Heartbeats()))
        self.deliveries = Counter(
            "pipesync_webhook_deliveries",
            "Webhook deliveries that were answered, by the way they came and what became of them.",
            ["ingress", "outcome"],
            registry=self._registry,
        )
        self.rpc_seconds = Histogram(
            "pipesync_rpc_duration_seconds",
            "How long RPCs took from their first byte to their status; streams take as long as they"
            " are open.",
            ["method", "code"],
            buckets=_RPC_BUCKETS,
            registry=self._registry,
        )
        self.events_applied = Counter(
            "pipesync_webhook_events_applied",
            "Webhook events that were brought to their destination.",
            registry=self._registry,
        )
        self.events_set_aside = Counter(
            "pipesync_webhook_events_set_aside",
            "Webhook events that failed too often and were set aside.",
            registry=self._registry,
        )
        self.syncs_running = Gauge(
            "pipesync_syncs_running",
            "Syncs that this process runs now.",
            registry=self._registry,
        )
        self._lag = Gauge(
            "pipesync_inbox_lag_seconds",
            "How long the oldest pending webhook event of all pipelines has been waiting.",
            registry=self._registry,
        )
        self._pending = Gauge(
            "pipesync_inbox_pending_events",
            "Webhook events of all pipelines that are to be applied.",
            registry=self._registry,
        )
        self._set_aside = Gauge(
            "pipesync_inbox_set_aside_events",
            "Webhook events of all pipelines that are set aside.",
            registry=self._registry,
        )

        self._rejected = Gauge(
            "pipesync_rejected_records",
            "Records of all pipelines that their destinations rejected and keep.",
            registry=self._registry,
        )

    def count_delivery(self, ingress: str, outcome: str) -> None:
        """Counts a delivery that is answered; ``outcome`` is a word of a small number."""
        self.deliveries.labels(ingress, outcome.lower()).inc()

    def observe_rpc(self, method: str, code: str, seconds: float) -> None:
        """Takes down a call that ended; ``method`` is ``/package.Service/Method``."""
        self.rpc_seconds.labels(method.rpartition("/")[2], code).observe(seconds)

    def text(self, backlog: Backlog | None, rejected: int | None = None) -> bytes:
        """All metrics in Prometheus's text format.

        Args:
            backlog: How the inbox is; None when that cannot be told.
            rejected: How many rejected records are kept; None when that cannot be told.
        """
        self._rejected.set(math.nan if rejected is None else rejected)
        self._lag.set(backlog.lag.total_seconds() if backlog else math.nan)
        self._pending.set(backlog.pending if backlog else math.nan)
        self._set_aside.set(backlog.set_aside if backlog else math.nan)
        return generate_latest(self._registry)


class _LoopMetrics(Collector):
    """Metrics of the background loops, by ``loop``: the names in ``Loop`` and no others."""

    def __init__(self, heartbeats: Heartbeats) -> None:
        self._heartbeats = heartbeats

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        age = GaugeMetricFamily(
            "pipesync_loop_last_round_age_seconds",
            "How long ago each background loop last came round; the longest where several run.",
            labels=["loop"],
        )
        still = GaugeMetricFamily(
            "pipesync_loop_stands_still",
            "1 while the next round of a background loop is overdue, else 0.",
            labels=["loop"],
        )
        failures = CounterMetricFamily(
            "pipesync_loop_failures",
            "Rounds of each background loop that failed, and were followed by another.",
            labels=["loop"],
        )
        standing_still = self._heartbeats.standing_still()
        for loop, seconds in self._heartbeats.ages().items():
            age.add_metric([loop.value], seconds)
            still.add_metric([loop.value], float(loop in standing_still))
        for loop in Loop:
            failures.add_metric([loop.value], self._heartbeats.failures.get(loop, 0))
        yield from (age, still, failures)
