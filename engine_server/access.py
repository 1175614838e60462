"""Authorization policy of the engine: every method requires the admin scope."""

from pipesync.v1.engine_service_pb2 import DESCRIPTOR
from pipesync_server.access import Scope, ScopeTable

# Every request carries its own configuration, so any method can reach any address with any secret,
# and no request is limited to a stored pipeline.
POLICY = ScopeTable(
    {
        f"/{service.full_name}/{method.name}": Scope.ADMIN
        for service in DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
)
