"""Long histories of one stream each, in the shapes of real accounts; 100,000 objects are quick."""

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import orjson

from tests.stripe_simulator.seeds.plan import MAKERS
from tests.stripe_simulator.seeds.references import References

_DAY = 86_400
# Ten years.
HISTORY_SECONDS = 3_652 * _DAY
_RECENT = 42 * _DAY
_RECENT_SHARE = 0.9
_BURST = 5_000
_BURSTS_SHARE = 0.5
# Number of objects that differ in more than id and time; each of the others resembles one.
_VARIETY = 50

# Age of each object at the end of the history in seconds, in no order.
Ages = Callable[[random.Random, int], list[float]]


def _even(generator: random.Random, count: int) -> list[float]:
    """Spread objects at a constant rate; as in real accounts, not at equal distances."""
    return [generator.uniform(0, HISTORY_SECONDS) for _ in range(count)]


def _skewed(generator: random.Random, count: int) -> list[float]:
    """Put most objects in the last six weeks, the rest at a constant rate before."""
    recent = int(count * _RECENT_SHARE)
    ages = [generator.uniform(0, _RECENT) for _ in range(recent)]
    return ages + [generator.uniform(_RECENT, HISTORY_SECONDS) for _ in range(count - recent)]


def _bursty(generator: random.Random, count: int) -> list[float]:
    """Spread half of the objects at a constant rate, the others by the 1,000 in single seconds."""
    bursts = int(count * _BURSTS_SHARE) // _BURST
    ages = _even(generator, count - bursts * _BURST)
    for age in _even(generator, bursts):
        ages += [float(int(age))] * _BURST
    return ages


SHAPES: Mapping[str, Ages] = {"even": _even, "skewed": _skewed, "bursty": _bursty}


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Objects of one stream: the same history makes the same ids at the same distances.

    Attributes:
        stream: A stream whose objects a plan can hold.
        shape: Spread of the objects over ten years, one of ``SHAPES``.
        count: Number of objects.
    """

    stream: str
    shape: str
    count: int

    def __post_init__(self) -> None:
        if self.stream not in MAKERS:
            raise ValueError(f"no seeds for {self.stream}; known: {', '.join(sorted(MAKERS))}")
        if self.shape not in SHAPES:
            raise ValueError(f"no shape {self.shape}; known: {', '.join(SHAPES)}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the output of ``str``, e.g. ``charges=skewed:100000``.

        Raises:
            ValueError: The text is not of that form, or has an unknown stream or shape.
        """
        form = re.fullmatch(r"(\w+)=(\w+):([0-9]+)", text)
        if form is None:
            raise ValueError(f"{text!r} is not of the form STREAM=SHAPE:N")
        stream, shape, count = form.groups()
        return cls(stream=stream, shape=shape, count=int(count))

    def __str__(self) -> str:
        return f"{self.stream}={self.shape}:{self.count}"

    def ids(self) -> list[str]:
        """Return the ids, oldest object first."""
        references = self._references()
        return [references.id(self.stream, index) for index in range(self.count)]

    def created(self, until: int) -> list[int]:
        """Return the creation times, ascending, in Unix seconds before ``until``."""
        generator = random.Random(str(self))  # noqa: S311 (repeatable on purpose, guards nothing)
        # An object of age 0.0 belongs to the last whole second, too.
        return sorted(until - 1 - int(age) for age in SHAPES[self.shape](generator, self.count))

    def objects(self, until: int) -> Iterator[tuple[str, int, bytes]]:
        """Yield each object's id, creation and JSON, oldest first."""
        rests = self._rests()
        for index, (object_id, created) in enumerate(
            zip(self.ids(), self.created(until), strict=True)
        ):
            rest = rests[index % len(rests)]
            yield (
                object_id,
                created,
                b'{"id":"%b","created":%d,%b'
                % (
                    object_id.encode(),
                    created,
                    rest,
                ),
            )

    def _references(self) -> References:
        return References({self.stream: self.count}, seed=0)

    def _rests(self) -> list[bytes]:
        """Return the possible JSON of an object after its id and time."""
        rests = []
        for index in range(_VARIETY):
            document = MAKERS[self.stream](self._references(), index, 0)
            del document["id"], document["created"]
            rests.append(orjson.dumps(document).removeprefix(b"{"))
        return rests
