"""Clients of the engine and of the service, for programs written in Python."""

from pipesync_client.engine import EngineClient
from pipesync_client.pipelines import PipelineClient

__all__ = ["EngineClient", "PipelineClient"]
