"""Every surface with made-up input: the same examples each time, so that none fails by chance."""

from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz import rpc
from tests.fuzz.ground import METHODS, Ground
from tests.fuzz.kept_examples import kept
from tests.fuzz.requests import plain_sequence
from tests.fuzz.surfaces import OTHER_SURFACES, Surface, check, http_surface, rpc_surface

pytestmark = pytest.mark.timeout(300)

# ``make fuzz`` tries more: these numbers limit the time that every change has to wait.
EXAMPLES = {"answers of Stripe": 30, "http": 100, "state": 20}
_BY_METHOD, _OTHERWISE = 25, 60


def fuzz(ground: Ground, surface: Surface, examples: int) -> None:
    """Check that number of examples, the same each time."""

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        # Shrinking is for ``make fuzz``: an example that fails here is printed as it is.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(surface.attempts)
    def holds(attempt: Any) -> None:
        check(ground, surface, attempt)

    holds()


@pytest.mark.parametrize("method", METHODS)
def test_a_plain_request_is_taken(ground: Ground, method: str) -> None:
    # Otherwise the examples of a method, which are made from it, would fail the first check: a
    # field that a new method requires belongs in ``requests.PLAIN``.
    requests = plain_sequence(METHODS[method].input_type)
    outcome = rpc.run(ground, rpc.attempt_of(method, *requests), 30)
    assert outcome.code in (grpc.StatusCode.OK, grpc.StatusCode.FAILED_PRECONDITION)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_holds(ground: Ground, method: str) -> None:
    fuzz(ground, rpc_surface(method), _BY_METHOD)


@pytest.mark.parametrize("surface", OTHER_SURFACES, ids=lambda one: one.name.replace(" ", "_"))
def test_a_surface_holds(ground: Ground, surface: Surface) -> None:
    fuzz(ground, surface, EXAMPLES.get(surface.name, _OTHERWISE))


def test_the_routes_hold(ground: Ground) -> None:
    assert ("POST", "/webhooks/{pipeline_id}") in ground.routes
    fuzz(ground, http_surface(ground.routes), EXAMPLES["http"])


@pytest.mark.parametrize(("name", "surface", "attempt"), kept(), ids=[name for name, *_ in kept()])
def test_a_kept_example_holds(ground: Ground, name: str, surface: str, attempt: Any) -> None:
    surfaces = {
        one.name: one
        for one in (
            *map(rpc_surface, METHODS),
            *OTHER_SURFACES,
            http_surface(ground.routes),
        )
    }
    check(ground, surfaces[surface], attempt)
