"""Python clients of the engine and of the service."""

from pipesync_client.engine import EngineClient
from pipesync_client.pipelines import PipelineClient

__all__ = ["EngineClient", "PipelineClient"]
