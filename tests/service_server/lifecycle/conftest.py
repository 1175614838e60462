"""Settings with short intervals for continuous pipelines."""

import pytest

from service_server.settings.service import ServiceSettings


@pytest.fixture
def settings(settings: ServiceSettings) -> ServiceSettings:
    return settings.model_copy(
        update={
            "step_seconds": 1.0,
            "poll_seconds": 0.1,
            "retry_seconds": 0.05,
            "longest_retry_seconds": 0.2,
        }
    )
