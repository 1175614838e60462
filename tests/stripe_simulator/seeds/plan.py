"""Contents of an account: numbers of objects and their creation times.

The same plan makes the same objects.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.stripe_simulator.seeds import balance, billing, checkout, payments
from tests.stripe_simulator.seeds.references import References

MAKERS = {**balance.MAKERS, **billing.MAKERS, **checkout.MAKERS, **payments.MAKERS}

# Streams whose objects a plan can hold.
SEEDED_STREAMS = tuple(sorted(MAKERS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """One initial object.

    Attributes:
        stream: Stream of the object.
        document: The object.
        listed: False when its list hides it unless it is asked for all.
    """

    stream: str
    document: Mapping[str, Any]
    listed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedPlan:
    """Initial contents of a simulated account.

    Attributes:
        counts: Number of objects of each stream.
        same_second: Number of a stream's objects that share one second, in the middle of its
            history.
        created_from: Earliest creation in Unix seconds; the others follow at even distances.
        created_until: Exclusive upper bound of creations in Unix seconds.
        seed: Number on which ids and values depend.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    same_second: Mapping[str, int] = field(default_factory=dict)
    created_from: int = 1_640_995_200  # 2022-01-01
    created_until: int = 1_767_225_600  # 2026-01-01
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = sorted({*self.counts, *self.same_second} - set(SEEDED_STREAMS))
        if unknown:
            raise ValueError(f"no seeds for {', '.join(unknown)}; known: {SEEDED_STREAMS}")

    def seeds(self) -> Iterator[Seed]:
        """Yield every object, stream by stream, oldest first."""
        references = References(self.counts, self.seed)
        for stream, count in self.counts.items():
            make = MAKERS[stream]
            for index in range(count):
                document = make(references, index, self._created(stream, index))
                listed = not (stream == "subscriptions" and document["status"] == "canceled")
                yield Seed(stream=stream, document=document, listed=listed)

    def _created(self, stream: str, index: int) -> int:
        count = self.counts[stream]
        together = self.same_second.get(stream, 0)
        first = (count - together) // 2
        if first <= index < first + together:
            index = first
        return self.created_from + (self.created_until - self.created_from) * index // count
