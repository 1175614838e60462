"""Servers to fuzz: an engine, a service on it, their databases and a simulated Stripe account."""

from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import SecretStr

from engine_server.connectors.registry import DESTINATIONS_GROUP, SOURCES_GROUP, ConnectorRegistry
from engine_server.servicer import EngineServicer
from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, StreamSelection
from pipesync.v1.engine_service_pb2_grpc import add_EngineServiceServicer_to_server
from pipesync.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from pipesync_rpc.limits import SIZE_OPTIONS
from pipesync_server.server import RpcServer
from service_server.bootstrap import RunningService, running_service
from service_server.http.server import ROUTES
from service_server.settings.service import ServiceSettings
from tests.end_to_end import listening
from tests.fuzz.heard import SIMULATOR, Heard
from tests.fuzz.json_values import to_struct
from tests.fuzz.loop_thread import LoopThread
from tests.fuzz.placeholders import Actual
from tests.fuzz.tables import DESTINATION_CONFIG, PAUSED, SOURCE_CONFIG, STORED
from tests.postgres import PostgresCluster
from tests.service_server.conftest import KEY
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

_OPTIONS = (*SIZE_OPTIONS, ("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0))
_HEALTH_PATIENCE = 20.0
SERVICES = tuple(
    service
    for descriptor in (engine_pb.DESCRIPTOR, pb.DESCRIPTOR)
    for service in descriptor.services_by_name.values()
)
METHODS = {
    f"/{service.full_name}/{method.name}": method
    for service in SERVICES
    for method in service.methods
}


class Ground:
    """Both servers, in a thread of their own, and the resources that they need.

    Attributes:
        store_url: URL of the service's own database.
        actual: Actual values of the stand-ins.
        engine_address: Address of the engine.
        service: The running service.
        simulator: The Stripe account; it runs in ``stripe``.
        stripe: The thread of the simulator.
        servers: The thread of the servers.
        heard: Faults in the servers' log.
        routes: Method and path of each route of the service's HTTP side.
        states: Ending states of syncs, once they were captured.
        on_close: Called before the channels are closed.
        channels: By full name of a service, a channel to its server.
    """

    def __init__(
        self,
        *,
        stripe: LoopThread,
        servers: LoopThread,
        simulator: StripeSimulator,
        engine_address: str,
        service: RunningService,
        store_url: str,
        actual: Actual,
        heard: Heard,
    ) -> None:
        self.stripe = stripe
        self.servers = servers
        self.simulator = simulator
        self.engine_address = engine_address
        self.service = service
        self.store_url = store_url
        self.actual = actual
        self.heard = heard
        self.routes = tuple((method, path) for path, taken in ROUTES.items() for method in taken)
        self.states: dict[str, bytes] = {}
        self.on_close: list[Callable[[], None]] = []
        self.channels: dict[str, grpc.Channel] = {}
        for name, address in (
            ("pipesync.v1.EngineService", engine_address),
            ("pipesync.v1.PipelineService", service.address),
        ):
            self.channels[name] = grpc.insecure_channel(address, options=_OPTIONS)
        self._health: dict[str, Any] = {
            name: health_pb2_grpc.HealthStub(channel) for name, channel in self.channels.items()
        }
        self._stub: Any = PipelineServiceStub(self.channels["pipesync.v1.PipelineService"])
        self._etags: dict[str, str] = {}

    def sick(self) -> list[str]:
        """Return a line for each server that is not healthy."""
        faults = []
        for name, stub in self._health.items():
            try:
                answer = stub.Check(
                    health_pb2.HealthCheckRequest(service=name), timeout=_HEALTH_PATIENCE
                )
            except grpc.RpcError as error:
                faults.append(f"the health of {name}: {error.code()}")
                continue
            if answer.status != health_pb2.HealthCheckResponse.SERVING:
                faults.append(f"the health of {name}: {answer.status}")
        return faults

    def restore(self) -> None:
        """Restore the stored pipelines and delete all others."""
        found = self._stub.ListPipelines(pb.ListPipelinesRequest(page_size=1000)).pipelines
        kept = {one.id: one for one in found}
        for pipeline_id in (STORED, PAUSED):
            one = kept.pop(pipeline_id, None)
            if one is not None and self._etags.get(pipeline_id) == one.etag:
                continue
            if one is not None:
                self._delete(pipeline_id)
            self._create(pipeline_id)
        for pipeline_id in kept:
            self._delete(pipeline_id)

    def _create(self, pipeline_id: str) -> None:
        source, destination = (
            Connector(
                type=kind,
                config=to_struct(
                    {
                        name: self.actual.bytes(str(value).encode()).decode()
                        for name, value in config.items()
                    }
                ),
            )
            for kind, config in (("stripe", SOURCE_CONFIG), ("postgres", DESTINATION_CONFIG))
        )
        destination.config["schema"] = pipeline_id
        request = pb.CreatePipelineRequest(
            pipeline=pb.Pipeline(
                id=pipeline_id,
                config=PipelineConfig(
                    source=source,
                    destination=destination,
                    streams=[StreamSelection(name="customers")],
                ),
                desired_status=(
                    pb.DESIRED_STATUS_PAUSED if pipeline_id == PAUSED else pb.DESIRED_STATUS_ACTIVE
                ),
            ),
            skip_check=True,
        )
        self._etags[pipeline_id] = self._stub.CreatePipeline(request).pipeline.etag

    def _delete(self, pipeline_id: str) -> None:
        request = pb.DeletePipelineRequest(pipeline_id=pipeline_id, skip_teardown=True)
        try:
            self._stub.DeletePipeline(request, timeout=60)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise

    def prepare(self, message: Message) -> bytes:
        """Return the bytes of a message with the stand-ins replaced."""
        return self.actual.bytes(message.SerializeToString())

    def close(self) -> None:
        """Call ``on_close`` and close the channels."""
        for close in self.on_close:
            close()
        for channel in self.channels.values():
            channel.close()


@contextmanager
def ground(cluster: PostgresCluster, directory: Path) -> Iterator[Ground]:
    """Yield new servers until the end of the body."""
    heard = Heard()
    with heard.listening(), LoopThread(SIMULATOR) as stripe:
        simulator = stripe.enter(StripeSimulator(SeedPlan(counts={"customers": 5, "products": 2})))
        with LoopThread("servers", is_watched=True) as servers:
            databases = [servers.run(cluster.create_database()) for _ in range(2)]
            engine = servers.enter(_engine())
            settings = ServiceSettings(
                listen="127.0.0.1:0",
                http="127.0.0.1:0",
                engine=engine.address,
                database_url=SecretStr(cluster.url(databases[0])),
                data_dir=directory,
                encryption_keys=SecretStr(KEY),
                drain_seconds=5,
                step_seconds=2,
            )
            service = servers.enter(running_service(settings))
            made = Ground(
                stripe=stripe,
                servers=servers,
                simulator=simulator,
                engine_address=engine.address,
                service=service,
                store_url=cluster.url(databases[0]),
                actual=Actual(simulator.base_url, cluster.url(databases[1])),
                heard=heard,
            )
            try:
                made.restore()
                yield made
            finally:
                made.close()
        for database in databases:
            stripe.run(cluster.drop_database(database))


@asynccontextmanager
async def _engine() -> Any:
    source = f"{listening.__name__}:{listening.quick_stripe_source.__name__}"
    registry = ConnectorRegistry(
        [EntryPoint("stripe", source, SOURCES_GROUP)], entry_points(group=DESTINATIONS_GROUP)
    )
    registry.describe_all(engine_pb.CONNECTOR_SIDE_UNSPECIFIED)
    servicer = EngineServicer(registry)
    async with (
        registry.lifespan(),
        RpcServer(
            listen="127.0.0.1:0",
            register=partial(add_EngineServiceServicer_to_server, servicer),
            service_names=["pipesync.v1.EngineService"],
            on_drain=servicer.request_shutdown,
            grace=1.0,
        ) as server,
    ):
        yield server
