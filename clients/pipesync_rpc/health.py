"""The gRPC health service of a server that knows whether it is well."""

# Context types are generic in their stubs only.
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc.aio
from grpc_health.v1 import health, health_pb2

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health(health.aio.HealthServicer):
    """Answers SERVING for every service, and for the empty name, while the server is well.

    A check asks at that moment. A watch is told when ``refresh`` is called.
    """

    def __init__(self, service_names: Sequence[str], is_well: Callable[[], bool]) -> None:
        super().__init__()
        self._names = ("", *service_names)
        self._is_well = is_well

    async def refresh(self) -> None:
        """Tell watches how the server is now; without effect once it drains."""
        status = _SERVING if self._is_well() else _NOT_SERVING
        for name in self._names:
            await self.set(name, status)

    async def Check(  # noqa: N802 - named by the contract
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> health_pb2.HealthCheckResponse:
        """Answer with the status of a service as it is now."""
        answer: health_pb2.HealthCheckResponse = await super().Check(request, context)
        if answer.status == _SERVING and not self._is_well():
            answer.status = _NOT_SERVING
        return answer
