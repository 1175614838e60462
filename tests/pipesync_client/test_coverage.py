"""The clients have a method for every RPC of the contract."""

import re

import pytest
from google.protobuf.descriptor import ServiceDescriptor

from pipesync.v1 import engine_service_pb2, pipeline_service_pb2
from pipesync_client import EngineClient, PipelineClient


@pytest.mark.parametrize(
    ("client", "service"),
    [
        (EngineClient, engine_service_pb2.DESCRIPTOR.services_by_name["EngineService"]),
        (PipelineClient, pipeline_service_pb2.DESCRIPTOR.services_by_name["PipelineService"]),
    ],
)
def test_every_rpc_has_its_method(client: type, service: ServiceDescriptor) -> None:
    names = [method.name for method in service.methods]
    expected = {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in names}
    assert {name for name in vars(client) if not name.startswith("_")} == expected
