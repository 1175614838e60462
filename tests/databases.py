"""Databases that tests take one after another: each is made once, and reset after every test."""

from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from tests.leaks import leaks
from tests.postgres import PostgresCluster

# Resetting more tables than these, or longer ones, takes longer than to make a new database.
_MOST_TABLES = 60
_MOST_BYTES = 80_000
# Dead rows of the system's own tables add up: a new database has none.
_MOST_TESTS = 50
# The system's tables, and their columns with the number of the object that a row belongs to.
# Numbers of built-in objects are below 16384.
_CATALOGS = {
    "pg_attrdef": "adrelid",
    "pg_attribute": "attrelid",
    "pg_cast": "oid",
    "pg_class": "oid",
    "pg_collation": "oid",
    "pg_constraint": "oid",
    "pg_conversion": "oid",
    "pg_default_acl": "oid",
    "pg_event_trigger": "oid",
    "pg_extension": "oid",
    "pg_foreign_data_wrapper": "oid",
    "pg_foreign_server": "oid",
    "pg_index": "indexrelid",
    "pg_language": "oid",
    "pg_largeobject_metadata": "oid",
    "pg_namespace": "oid",
    "pg_opclass": "oid",
    "pg_operator": "oid",
    "pg_policy": "oid",
    "pg_proc": "oid",
    "pg_publication": "oid",
    "pg_rewrite": "oid",
    "pg_sequence": "seqrelid",
    "pg_statistic": "starelid",
    "pg_statistic_ext": "oid",
    "pg_trigger": "oid",
    "pg_ts_config": "oid",
    "pg_ts_dict": "oid",
    "pg_type": "oid",
}
# Number and last change of the objects of each kind, rights on the database and on the built-in
# schemas and tables, settings, and transactions and slots that outlive a session.
_STATE = " || ".join(
    f"(SELECT (count(*), max(xmin::text::bigint))::text FROM {catalog} WHERE {column} >= 16384)"  # noqa: S608 - names of our own
    for catalog, column in _CATALOGS.items()
)
_STATE = f"""
SELECT {_STATE}
|| (SELECT (datdba, datacl, datconnlimit, datallowconn, datistemplate)::text FROM pg_database
    WHERE datname = current_database())
|| (SELECT string_agg((nspname, nspowner, nspacl)::text, ' ' ORDER BY oid) FROM pg_namespace
    WHERE oid < 16384)
|| (SELECT string_agg((relname, relacl)::text, ' ' ORDER BY oid) FROM pg_class
    WHERE oid < 16384 AND relacl IS NOT NULL)
|| (SELECT count(*) FROM pg_db_role_setting
    WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()))
|| (SELECT count(*) FROM pg_extension)
|| (SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database())
|| (SELECT count(*) FROM pg_replication_slots WHERE database = current_database())
"""  # noqa: S608 - names of our own
_BEGIN = """
SET session_replication_role = replica;
SET statement_timeout = '20s';
SET default_transaction_read_only = off;
SET client_min_messages = error;
SELECT pg_terminate_backend(pid, 5000)
FROM pg_stat_get_activity(NULL)
WHERE datid = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
_SCHEMAS = """
SELECT quote_ident(nspname) AS name, (SELECT count(*) FROM pg_class WHERE relnamespace = it.oid)
FROM pg_namespace AS it
WHERE it.oid >= 16384 AND nspname NOT LIKE 'pg\\_%'
"""
_TABLES = """
SELECT oid::regclass::text AS name, relkind = 'S' AS is_sequence
FROM pg_class
WHERE oid >= 16384 AND relkind IN ('r', 'S') AND relnamespace <> 'pg_toast'::regnamespace
ORDER BY oid
"""
_LONGEST = "SELECT max(pg_relation_size(oid)) FROM pg_class WHERE oid >= 16384 AND relkind = 'r'"


@dataclass(frozen=True, slots=True)
class Template:
    """A database to copy.

    Attributes:
        name: Name of the database.
        fill: Makes its tables, given its URL.
    """

    name: str
    fill: Callable[[str], Awaitable[None]] | None = None


EMPTY = Template("template1")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Original:
    """The state that every copy of a template begins with.

    Attributes:
        state: Objects and rights.
        schemas: Names of the schemas.
        emptied: Tables without rows.
        kept: Tables with rows, which no test may change, and a digest of their rows.
        sequences: Sequences, none of which was used.
    """

    state: str
    schemas: frozenset[str]
    emptied: Sequence[str]
    kept: Mapping[str, str]
    sequences: Sequence[str]


class Databases:
    """The databases of one cluster.

    A database that is taken again has a new name, so that a leftover of an earlier test cannot
    find it. One that cannot be reset with certainty is dropped.
    """

    def __init__(self, cluster: PostgresCluster, *, resting: int = 3) -> None:
        """Take databases of ``cluster``; ``resting`` of them wait for the end of their sessions."""
        self._cluster = cluster
        self._most_resting = resting
        self._originals: dict[str, _Original] = {}
        self._resting: defaultdict[str, deque[tuple[str, int]]] = defaultdict(deque)

    @asynccontextmanager
    async def taken(self, template: Template = EMPTY) -> AsyncIterator[str]:
        """Yield the URL of a copy of ``template``, which is searched for secrets in the end."""
        original = await self._original(template)
        name, tests = await self._taken_again(template) or (
            await self._cluster.create_database(template=template.name),
            0,
        )
        yield self._cluster.url(name)
        async with _connected(self._cluster.url(name)) as connection:
            await leaks.search_tables(connection)
            is_reset = tests < _MOST_TESTS and await _reset(connection, original)
        if is_reset:
            self._resting[template.name].append((name, tests + 1))
        else:
            await self._cluster.drop_database(name)

    async def _taken_again(self, template: Template) -> tuple[str, int] | None:
        resting = self._resting[template.name]
        if len(resting) < self._most_resting:
            return None
        name, tests = resting.popleft()
        try:
            return await self._cluster.rename_database(name), tests
        except asyncpg.ObjectInUseError:
            # On a busy machine, even an ended session may last for seconds.
            await self._cluster.drop_database(name)
            return None

    async def _original(self, template: Template) -> _Original:
        if template.name in self._originals:
            return self._originals[template.name]
        await self._cluster.trade_durability_for_speed()
        if template.fill is not None:
            await self._cluster.drop_database(template.name)
            await self._cluster.create_database(name=template.name)
            await template.fill(self._cluster.url(template.name))
        copy = await self._cluster.create_database(template=template.name)
        async with _connected(self._cluster.url(copy)) as connection:
            original = await _inspected(connection)
        await self._cluster.drop_database(copy)
        self._originals[template.name] = original
        return original


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def _inspected(connection: asyncpg.Connection) -> _Original:
    emptied, kept, sequences = list[str](), dict[str, str](), list[str]()
    for one in await connection.fetch(_TABLES):
        name = one["name"]
        if one["is_sequence"]:
            assert not await connection.fetchval(f"SELECT is_called FROM {name}")  # noqa: S608 - ours
            sequences.append(name)
        elif digest := await connection.fetchval(_digest(name)):
            kept[name] = digest
        else:
            emptied.append(name)
    return _Original(
        state=await connection.fetchval(_STATE),
        schemas=frozenset(one["name"] for one in await connection.fetch(_SCHEMAS)),
        emptied=emptied,
        kept=kept,
        sequences=sequences,
    )


async def _reset(connection: asyncpg.Connection, original: _Original) -> bool:
    """Restore the original, and return whether that succeeded."""
    try:
        await connection.execute(_BEGIN)
        if await connection.fetchval(_STATE) != original.state:
            schemas = [
                one
                for one in await connection.fetch(_SCHEMAS)
                if one["name"] not in original.schemas
            ]
            if not schemas or sum(one["count"] for one in schemas) > _MOST_TABLES:
                return False
            names = ", ".join(one["name"] for one in schemas)
            await connection.execute(f"DROP SCHEMA {names} CASCADE")
            if await connection.fetchval(_STATE) != original.state:
                return False
        if not original.schemas:
            return True
        if await connection.fetchval(_LONGEST) > _MOST_BYTES:
            return False
        for name, digest in original.kept.items():
            if await connection.fetchval(_digest(name)) != digest:
                return False
        emptied = [f"DELETE FROM {name}" for name in original.emptied]  # noqa: S608 - ours
        restarted = [f"SELECT setval('{name}', 1, false)" for name in original.sequences]
        await connection.execute(";".join([*emptied, *restarted]))
    except asyncpg.PostgresError:
        return False
    return True


def _digest(table: str) -> str:
    return f"SELECT md5(string_agg(it::text, ' ' ORDER BY it::text)) FROM {table} AS it"  # noqa: S608 - ours
