"""Migrations of the database's tables, as numbered SQL files."""

from dataclasses import dataclass
from importlib import resources

# First line of a file whose only statement Postgres cannot run in a transaction.
CONCURRENTLY = "-- concurrently"


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One change of the tables.

    Attributes:
        number: Position in the order, from 1.
        name: Short description, with underscores.
        statements: SQL statements.
    """

    number: int
    name: str
    statements: str

    def __post_init__(self) -> None:
        # A migration that was killed before it was recorded is applied again.
        if self.is_concurrent and "INDEX CONCURRENTLY IF" not in self.statements:
            raise ValueError(f"migration {self} lacks IF NOT EXISTS, or IF EXISTS")

    def __str__(self) -> str:
        return f"{self.number:04}_{self.name}"

    @property
    def is_concurrent(self) -> bool:
        """Whether the migration is one statement outside of any transaction."""
        return self.statements.startswith(CONCURRENTLY)


def load_migrations() -> list[Migration]:
    """Return every ``migrations/NNNN_name.sql``, in order."""
    migrations = []
    for file in (resources.files("service_server.store") / "migrations").iterdir():
        number, _, name = file.name.removesuffix(".sql").partition("_")
        migrations.append(Migration(number=int(number), name=name, statements=file.read_text()))
    return sorted(migrations, key=lambda migration: migration.number)
