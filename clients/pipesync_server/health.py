"""gRPC health service that asks the server for its state."""

# Context types are generic in their stubs only.
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc.aio
from grpc_health.v1 import health, health_pb2

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health(health.aio.HealthServicer):
    """Answers SERVING for every service, and for the empty name, while the server is healthy.

    A check asks for the current state. Watches are notified by ``refresh``.
    """

    def __init__(self, service_names: Sequence[str], is_healthy: Callable[[], bool]) -> None:
        super().__init__()
        self._names = ("", *service_names)
        self._is_healthy = is_healthy

    async def refresh(self) -> None:
        """Notify watches of the current state; no effect once the server drains."""
        status = _SERVING if self._is_healthy() else _NOT_SERVING
        for name in self._names:
            await self.set(name, status)

    async def Check(  # noqa: N802 - named by the contract
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> health_pb2.HealthCheckResponse:
        """Return the current status of a service."""
        answer: health_pb2.HealthCheckResponse = await super().Check(request, context)
        if answer.status == _SERVING and not self._is_healthy():
            answer.status = _NOT_SERVING
        return answer
