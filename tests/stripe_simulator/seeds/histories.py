"""Long pasts of one stream each, in the shapes that accounts have; quick to make by the 100,000."""

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
# That many objects differ in more than their id and time; the others are like one of them.
_VARIETY = 50

# How many seconds before the end of the history each object was made, in no order.
Ages = Callable[[random.Random, int], list[float]]


def _even(generator: random.Random, count: int) -> list[float]:
    """At the same rate all along; as in life, not at the same distances."""
    return [generator.uniform(0, HISTORY_SECONDS) for _ in range(count)]


def _skewed(generator: random.Random, count: int) -> list[float]:
    """Most in the last six weeks, the rest at the same rate before."""
    recent = int(count * _RECENT_SHARE)
    ages = [generator.uniform(0, _RECENT) for _ in range(recent)]
    return ages + [generator.uniform(_RECENT, HISTORY_SECONDS) for _ in range(count - recent)]


def _bursty(generator: random.Random, count: int) -> list[float]:
    """Half of them at the same rate all along, the others by the thousand in single seconds."""
    bursts = int(count * _BURSTS_SHARE) // _BURST
    ages = _even(generator, count - bursts * _BURST)
    for age in _even(generator, bursts):
        ages += [float(int(age))] * _BURST
    return ages


SHAPES: Mapping[str, Ages] = {"even": _even, "skewed": _skewed, "bursty": _bursty}


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What one stream holds: the same history makes the same ids at the same distances.

    Attributes:
        stream: One of those that a plan can hold objects of.
        shape: How the objects are spread over ten years, one of ``SHAPES``.
        count: How many objects there are.
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
        """Reads what ``str`` writes, e.g. ``charges=skewed:100000``.

        Raises:
            ValueError: The text is not of that form, or names what is not known.
        """
        form = re.fullmatch(r"(\w+)=(\w+):([0-9]+)", text)
        if form is None:
            raise ValueError(f"{text!r} is not of the form STREAM=SHAPE:N")
        stream, shape, count = form.groups()
        return cls(stream=stream, shape=shape, count=int(count))

    def __str__(self) -> str:
        return f"{self.stream}={self.shape}:{self.count}"

    def ids(self) -> list[str]:
        """The ids, oldest object first."""
        references = self._references()
        return [references.id(self.stream, index) for index in range(self.count)]

    def created(self, until: int) -> list[int]:
        """When the objects were made, ascending, in Unix seconds before ``until``."""
        generator = random.Random(str(self))  # noqa: S311 (repeatable on purpose, guards nothing)
        # An object of age 0.0 is one of the last whole second, too.
        return sorted(until - 1 - int(age) for age in SHAPES[self.shape](generator, self.count))

    def objects(self, until: int) -> Iterator[tuple[str, int, bytes]]:
        """Each object's id, creation and JSON, oldest first."""
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
        """What follows the id and the time in an object's JSON, in all its varieties."""
        rests = []
        for index in range(_VARIETY):
            document = MAKERS[self.stream](self._references(), index, 0)
            del document["id"], document["created"]
            rests.append(orjson.dumps(document).removeprefix(b"{"))
        return rests
