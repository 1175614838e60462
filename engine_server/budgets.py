"""Concurrency budget of each RPC of the engine."""

from collections.abc import Mapping

from pipesync.v1.engine_service_pb2 import DESCRIPTOR
from pipesync_server.budgets import Budget

# All other methods connect to a source or a destination.
_ANSWERED_AT_ONCE = ("ListConnectors", "GetConnector")

BUDGETS: Mapping[str, Budget] = {
    f"/{service.full_name}/{method.name}": (
        Budget.CALLS if method.name in _ANSWERED_AT_ONCE else Budget.SYNCS
    )
    for service in DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
# Shares of all concurrent calls. A single caller, such as a service, may use the whole share.
SHARES: Mapping[Budget, float] = {Budget.SYNCS: 0.8}
