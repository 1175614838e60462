"""What the simulated account of these tests holds."""

from tests.stripe_simulator.simulator import StripeSimulator

STREAMS = ["customers", "products", "prices"]


def everything(simulator: StripeSimulator) -> set[tuple[str, str]]:
    return {(name, i) for name in STREAMS for i in simulator.objects(name).ids()}
