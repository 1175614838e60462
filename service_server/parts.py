"""What every call that works on a pipeline stands on."""

from dataclasses import dataclass

from service_server.connectors import Connectors
from service_server.engine import Engine
from service_server.heartbeats import Heartbeats
from service_server.in_flight import InFlight
from service_server.leases import LeaseKeeper
from service_server.metrics import Metrics
from service_server.pipelines import Pipelines
from service_server.store.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of one service that its operations and syncs share.

    Attributes:
        pipelines: Where configurations are.
        engine: What does the work.
        connectors: Tells which of their fields are secret.
        database: Where states, runs and events are.
        leases: One pipeline is never worked on twice at once.
        in_flight: The calls that are to be over when the service ends.
        metrics: Told what goes on.
        heartbeats: Where background loops are watched.
    """

    pipelines: Pipelines
    engine: Engine
    connectors: Connectors
    database: Database
    leases: LeaseKeeper
    in_flight: InFlight
    metrics: Metrics
    heartbeats: Heartbeats
