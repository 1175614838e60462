"""Budgets of concurrent calls, and the budget of each RPC of the service."""

from collections.abc import Mapping

from pipesync.v1.pipeline_service_pb2 import DESCRIPTOR
from pipesync_server.budgets import Budget

_SERVICE = DESCRIPTOR.services_by_name["PipelineService"].full_name

# docs/limits.md shows this table to operators.
_BY_NAME = {
    "WatchPipeline": Budget.WATCHES,
    # These connect to a source or destination, or wait for a sync to end.
    "DiscoverSource": Budget.SYNCS,
    "CheckPipeline": Budget.SYNCS,
    "SyncPipeline": Budget.SYNCS,
    "SyncPipelineBatch": Budget.SYNCS,
    "SimulateWebhookSync": Budget.SYNCS,
    "RetryRejectedRecords": Budget.SYNCS,
    "CreatePipeline": Budget.SYNCS,
    "DeletePipeline": Budget.SYNCS,
    "SetupPipeline": Budget.SYNCS,
    "TeardownPipeline": Budget.SYNCS,
    "ListPipelineConnectors": Budget.CALLS,
    "GetPipeline": Budget.CALLS,
    "ListPipelines": Budget.CALLS,
    "ListRuns": Budget.CALLS,
    "ListWebhookEvents": Budget.CALLS,
    "PushWebhook": Budget.CALLS,
    "ReplayWebhookEvents": Budget.CALLS,
    # UpdatePipeline may connect to a source, but also pauses pipelines, which has to be possible
    # while the budget of syncs is used up.
    "UpdatePipeline": Budget.CALLS,
}
BUDGETS: Mapping[str, Budget] = {f"/{_SERVICE}/{name}": one for name, one in _BY_NAME.items()}
# Shares of all concurrent calls; the rest is for calls that are answered at once.
SHARES: Mapping[Budget, float] = {Budget.WATCHES: 0.4, Budget.SYNCS: 0.25}
# A request holds at most two configurations of 1 MiB, and the streams of a pipeline.
MOST_REQUEST_BYTES = 8 * 1024 * 1024
