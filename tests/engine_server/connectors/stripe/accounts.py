"""Contents of simulated accounts."""

from collections import Counter
from collections.abc import Iterable, Mapping

from tests.stripe_simulator.simulator import StripeSimulator

STREAMS = ["customers", "products", "prices"]

# A time in the past, in Unix seconds: the end of the histories below.
END = 1_760_000_000


def everything(simulator: StripeSimulator) -> set[tuple[str, str]]:
    return {(name, i) for name in STREAMS for i in simulator.objects(name).ids()}


def held(simulator: StripeSimulator, stream: str) -> Counter[tuple[str, str]]:
    """Return all objects of a list, each counted once."""
    return Counter((stream, object_id) for object_id in simulator.objects(stream).ids())


def fill(simulator: StripeSimulator, stream: str, seconds: Iterable[int]) -> None:
    """Create one object in each of the seconds."""
    objects = simulator.objects(stream)
    for number, second in enumerate(seconds, start=len(objects)):
        objects.put({"id": f"obj_{number}", "created": second})


def even(count: int, *, distance: int = 600) -> list[int]:
    """Return seconds at equal distances."""
    return [END - 1 - distance * number for number in range(count)]


def skewed(count: int) -> list[int]:
    """Return seconds over ten years, most of them in the last months."""
    return [END - 1 - int(3e8 * (number / count) ** 4) for number in range(count)]


def bursty(count: int) -> list[int]:
    """Return seconds half at equal distances, and a quarter each in two seconds far apart."""
    half = even(count // 2)
    burst = count // 4
    return half + [half[count // 8]] * burst + [half[count // 3]] * burst


def dense(count: int) -> list[int]:
    """Return every second twice."""
    return [END - 1 - number // 2 for number in range(count)]


def sparse(count: int) -> list[int]:
    """Return seconds ten days apart."""
    return even(count, distance=864_000)


HISTORIES: Mapping[str, list[int]] = {
    "even": even(2_500),
    "skewed": skewed(2_500),
    "bursty": bursty(2_500),
    "dense": dense(2_500),
    "sparse": sparse(150),
}
