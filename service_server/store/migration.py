"""What a migration is, and which there are."""

from dataclasses import dataclass
from importlib import resources

# The first line of a file with one statement that Postgres does not run in a transaction.
CONCURRENTLY = "-- concurrently"


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step in the life of the tables.

    Attributes:
        number: Its place in the order, from 1 on.
        name: What it is about.
        statements: SQL.
    """

    number: int
    name: str
    statements: str

    def __post_init__(self) -> None:
        # One that was killed between its statement and its entry in the ledger is applied again.
        if self.is_concurrent and "INDEX CONCURRENTLY IF" not in self.statements:
            raise ValueError(f"migration {self} lacks IF NOT EXISTS, or IF EXISTS")

    def __str__(self) -> str:
        return f"{self.number:04}_{self.name}"

    @property
    def is_concurrent(self) -> bool:
        """Whether it is one statement outside of any transaction."""
        return self.statements.startswith(CONCURRENTLY)


def load_migrations() -> list[Migration]:
    """Every ``migrations/NNNN_name.sql``, in order."""
    migrations = []
    for file in (resources.files("service_server.store") / "migrations").iterdir():
        number, _, name = file.name.removesuffix(".sql").partition("_")
        migrations.append(Migration(number=int(number), name=name, statements=file.read_text()))
    return sorted(migrations, key=lambda migration: migration.number)
