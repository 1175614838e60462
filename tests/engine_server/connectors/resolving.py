"""Resolver for tests, with a table instead of DNS."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Resolver:
    """Resolver that returns addresses from a table, for ``Reach.resolve``.

    Attributes:
        table: Lists of addresses by name. Each lookup takes the next list; the last one repeats.
        asked: The resolved names, in order.
    """

    table: dict[str, list[list[str]]]
    asked: list[str] = field(default_factory=list)

    async def __call__(self, name: str, port: int) -> Sequence[str]:
        self.asked.append(name)
        answers = self.table.get(name)
        if answers is None:
            raise OSError(f"{name} is unknown")
        return answers.pop(0) if len(answers) > 1 else answers[0]


def resolver(**table: list[str]) -> Resolver:
    """Return a resolver for keyword arguments, with two underscores for each dot."""
    return Resolver({name.replace("__", "."): [found] for name, found in table.items()})
