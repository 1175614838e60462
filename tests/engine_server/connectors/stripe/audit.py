"""Audit of a read's checkpoints against the records emitted before them."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping

import orjson

from tests.engine_server.connectors.stripe.reading import Reading
from tests.stripe_simulator.objects import ObjectList


class Audit:
    """Compares each checkpoint of one stream with the account and the emitted records.

    Attributes:
        most_remaining: The most ranges in a checkpoint.
        largest: The size of the largest checkpoint in bytes.
    """

    def __init__(self, objects: ObjectList, stream: str) -> None:
        self.most_remaining = 0
        self.largest = 0
        self._stream = stream
        self._keys = list(objects.everything.keys)
        self._ids = [item.id for item in objects.everything.objects]
        self._index = {object_id: index for index, object_id in enumerate(self._ids)}
        self._before: list[str] = []
        self._emitted: list[str] = []

    def next_request(self) -> None:
        """Start the next request after the records emitted so far."""
        self._before = self._emitted

    def __call__(self, reading: Reading) -> None:
        self._emitted = [*self._before, *(object_id for _, object_id in reading.ids.elements())]
        text = reading.state.streams[self._stream]
        checkpoint = orjson.loads(text)
        accounted = self._in(checkpoint["accounted_range"])
        left = [self._in(part, accounted) for part in checkpoint["remaining"]]
        met = Counter([*self._emitted, *(self._ids[index] for part in left for index in part)])
        assert dict(met) == dict.fromkeys((self._ids[index] for index in accounted), 1)
        self.most_remaining = max(self.most_remaining, len(left))
        self.largest = max(self.largest, len(text))

    def _in(self, part: Mapping[str, int | str], window: range | None = None) -> range:
        """Return the positions in the list that a range holds after its cursor."""
        first, last = 0, len(self._ids)
        if "gte" in part:
            first = bisect_left(self._keys, (int(part["gte"]), 0))
        if "lt" in part:
            last = bisect_left(self._keys, (int(part["lt"]), 0))
        if "cursor" in part:
            last = min(last, self._index[str(part["cursor"])])
        if window is not None:
            first, last = max(first, window.start), min(last, window.stop)
        return range(first, last)
