"""Fixtures of the engine's tests."""

import os
from collections.abc import AsyncIterator

import pytest
from hypothesis import settings

from tests.engine_server.engine import ScriptedEngine, scripted_engine

# No deadline per example, because the machine may be busy.
settings.register_profile("quick", max_examples=100, deadline=None)
settings.register_profile("thorough", max_examples=10_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    """Yield a served engine with a scripted pipeline."""
    async with scripted_engine() as running:
        yield running
