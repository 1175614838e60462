"""Brings the database's tables up to date, one numbered file at a time."""

from dataclasses import dataclass
from importlib import resources

import structlog

from service_server.store.database import Database

_log = structlog.get_logger(__name__)

# Any number will do that no other program on this database uses.
_ADVISORY_LOCK = 0x706970657379
_LEDGER = """
CREATE SCHEMA IF NOT EXISTS pipesync;
CREATE TABLE IF NOT EXISTS pipesync.migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    apply_time timestamptz NOT NULL DEFAULT now()
);
"""


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


def load_migrations() -> list[Migration]:
    """Every ``migrations/NNNN_name.sql``, in order."""
    migrations = []
    for file in (resources.files("service_server.store") / "migrations").iterdir():
        number, _, name = file.name.removesuffix(".sql").partition("_")
        migrations.append(Migration(number=int(number), name=name, statements=file.read_text()))
    return sorted(migrations, key=lambda migration: migration.number)


async def migrate(database: Database) -> None:
    """Applies the migrations that the database lacks, each in a transaction of its own.

    Services that start at the same time take turns.
    """
    for migration in load_migrations():
        async with database.transaction() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _ADVISORY_LOCK)
            await connection.execute(_LEDGER)
            if await connection.fetchval(
                "SELECT true FROM pipesync.migrations WHERE number = $1", migration.number
            ):
                continue
            await connection.execute(migration.statements)
            await connection.execute(
                "INSERT INTO pipesync.migrations (number, name) VALUES ($1, $2)",
                migration.number,
                migration.name,
            )
            _log.info("migration_applied", number=migration.number, name=migration.name)
