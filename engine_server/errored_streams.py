"""Streams of a request that have errored, shared by its stages and its source."""

from collections.abc import Iterable


class ErroredStreams:
    """Streams that errored in the source or the destination, in this or an earlier request."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        """Start with the streams that errored in earlier requests of the run."""
        self._names = frozenset(names)

    def __contains__(self, name: str) -> bool:
        """Return whether the stream has errored."""
        return name in self._names

    @property
    def names(self) -> frozenset[str]:
        """The names of the streams that have errored so far."""
        return self._names

    def add(self, name: str) -> None:
        """Add a stream."""
        self._names |= {name}

    def keep(self, names: Iterable[str]) -> None:
        """Remove all streams except these."""
        self._names &= frozenset(names)
