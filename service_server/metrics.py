"""Prometheus metrics of this process and of the inbox."""

import math
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pipesync_rpc.errors import RpcError
from pipesync_server.budgets import Bound, Budgets
from service_server.background.heartbeats import Heartbeats, Loop
from service_server.errors import TooManyDeliveries
from service_server.store.inbox import Backlog

# Seconds, from a read of memory to a batch that takes minutes.
_RPC_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 15, 60, 300)


class Metrics:
    """All metrics, in a registry of their own.

    Attributes:
        deliveries: Webhook deliveries that this process answered, by ``ingress`` and ``outcome``.
        deliveries_limited: Webhook deliveries that exceeded a limit, by ``ingress`` and ``limit``.
        http_connections: Open HTTP connections.
        http_connections_ended: HTTP connections that this process ended or refused, by ``reason``.
        body_bytes: Memory of the bodies of webhooks in progress.
        http_malformed: HTTP requests that could not be parsed.
        rpc_seconds: Durations of the calls that this process answered, by ``method`` and ``code``.
        events_applied: Webhook events that this process applied.
        events_dead_lettered: Webhook events that this process dead-lettered.
        syncs_running: Syncs that this process runs now.
        failed_logins: Calls without valid credentials, by ``outcome``.
    """

    def __init__(
        self, heartbeats: Heartbeats | None = None, budgets: Budgets | None = None
    ) -> None:
        """Register all metrics.

        Args:
            heartbeats: The heartbeats of the background loops.
            budgets: The budgets of concurrent calls; None for no metrics of them.
        """
        self._registry = CollectorRegistry()
        self._registry.register(_LoopMetrics(heartbeats or Heartbeats()))
        if budgets is not None:
            self._registry.register(_BudgetMetrics(budgets))
        self.deliveries = Counter(
            "pipesync_webhook_deliveries",
            "Webhook deliveries that were answered, by the way they came and what became of them.",
            ["ingress", "outcome"],
            registry=self._registry,
        )
        self.deliveries_limited = Counter(
            "pipesync_webhook_deliveries_limited",
            "Webhook deliveries that were turned away to be made again, by the limit reached.",
            ["ingress", "limit"],
            registry=self._registry,
        )
        self.http_connections = Gauge(
            "pipesync_http_connections",
            "HTTP connections that are open.",
            registry=self._registry,
        )
        self.http_connections_ended = Counter(
            "pipesync_http_connections_ended",
            "HTTP connections that were ended or refused by this process, by reason.",
            ["reason"],
            registry=self._registry,
        )
        self.body_bytes = Gauge(
            "pipesync_webhook_body_bytes",
            "Memory that the bodies of webhooks take that arrived by HTTP and are in hand.",
            registry=self._registry,
        )
        self.http_malformed = Counter(
            "pipesync_http_malformed_requests",
            "HTTP requests that could not be read, and were answered 400.",
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
        self.events_dead_lettered = Counter(
            "pipesync_webhook_events_set_aside",
            "Webhook events that failed too often and were set aside.",
            registry=self._registry,
        )
        self.syncs_running = Gauge(
            "pipesync_syncs_running",
            "Syncs that this process runs now.",
            registry=self._registry,
        )
        self.failed_logins = Counter(
            "pipesync_failed_logins",
            "Calls and requests for metrics without a valid token or certificate: refused, or"
            " limited where their address had too many.",
            ["outcome"],
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
        self._dead_lettered = Gauge(
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
        """Count an answered delivery; ``outcome`` is one of a small set."""
        self.deliveries.labels(ingress, outcome.lower()).inc()

    def count_refused_delivery(self, ingress: str, error: RpcError) -> None:
        """Count a delivery that is answered with an error, and the limit that it exceeded."""
        self.count_delivery(ingress, error.reason)
        if isinstance(error, TooManyDeliveries):
            self.deliveries_limited.labels(ingress, error.limit).inc()

    def count_failed_login(self, is_limited: bool) -> None:
        """Count a refused caller; ``is_limited`` says that its address exceeded the limit."""
        self.failed_logins.labels("limited" if is_limited else "refused").inc()

    def observe_rpc(self, method: str, code: str, seconds: float) -> None:
        """Record the duration of a call; ``method`` is ``/package.Service/Method``."""
        self.rpc_seconds.labels(method.rpartition("/")[2], code).observe(seconds)

    def text(self, backlog: Backlog | None, rejected: int | None = None) -> bytes:
        """Return all metrics in Prometheus's text format.

        Args:
            backlog: The backlog of the inbox; None if unknown.
            rejected: The number of rejected records that destinations keep; None if unknown.
        """
        self._rejected.set(math.nan if rejected is None else rejected)
        self._lag.set(backlog.lag.total_seconds() if backlog else math.nan)
        self._pending.set(backlog.pending if backlog else math.nan)
        self._dead_lettered.set(backlog.dead_lettered if backlog else math.nan)
        return generate_latest(self._registry)


class _BudgetMetrics(Collector):
    """Metrics of open calls and of refused calls, by ``budget``."""

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        size = GaugeMetricFamily(
            "pipesync_rpc_budget_size", "Calls at once that each budget has.", labels=["budget"]
        )
        open_calls = GaugeMetricFamily(
            "pipesync_rpc_budget_open", "Calls of each budget that are open.", labels=["budget"]
        )
        refused = CounterMetricFamily(
            "pipesync_rpc_refused_calls",
            "Calls that were refused: as one caller, or all of them, had as many open as they may,"
            " or as no request came.",
            labels=["budget", "bound"],
        )
        for budget, calls in self._budgets.sizes.items():
            size.add_metric([budget], calls)
            open_calls.add_metric([budget], self._budgets.open_calls(budget))
            for bound in Bound:
                refused.add_metric([budget, bound], self._budgets.refusals[budget, bound])
        held = GaugeMetricFamily(
            "pipesync_rpc_request_bytes", "Memory of the large requests that are open, in bytes."
        )
        held.add_metric([], self._budgets.request_bytes)
        yield from (size, open_calls, refused, held)


class _LoopMetrics(Collector):
    """Metrics of the background loops, by ``loop``, a name in ``Loop``."""

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
        standing_still = self._heartbeats.stalled_loops()
        for loop, seconds in self._heartbeats.ages().items():
            age.add_metric([loop.value], seconds)
            still.add_metric([loop.value], float(loop in standing_still))
        for loop in Loop:
            failures.add_metric([loop.value], self._heartbeats.failures.get(loop, 0))
        yield from (age, still, failures)
