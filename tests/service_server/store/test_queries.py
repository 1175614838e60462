"""Query plans: every query of the service finds its rows by an index."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

import asyncpg
import pytest

from service_server.store.database import Database
from service_server.store.migrate import migrate
from service_server.store.queries import load_queries
from tests.postgres import PostgresCluster
from tests.service_server.store.full_tables import fill

# Maximum number of rows that a query may sort: those of one pipeline, or of a page.
SORTED_ROWS = 1_500
# Values of known parameters; a limit is that of the largest page.
VALUES = {
    "text": "'pl-02500'",
    "int4": "1001",
    "int8": "1001",
    "int2": "1",
    "bool": "true",
    "float8": "1",
    "bytea": "'\\x01'",
    "timestamptz": "now()",
    "interval": "interval '1 minute'",
    "json": "'{}'",
    "jsonb": "'{}'",
}
# Queries that read more than a few rows, and why that does no harm.
EXCEPTIONS: Mapping[tuple[str, str], str] = {
    ("inbox.sql", "backlog"): "counts unfinished work by indexes of that alone (test_inbox.py)",
    ("inbox.sql", "has_repeats"): "reads the first row of a table that is mostly empty",
    ("inbox.sql", "requeue_repeats"): "takes a batch of events whose syncs have ended",
    ("inbox.sql", "prune"): "takes a batch of old events (test_inbox.py)",
    (
        "inbox.sql",
        "waiting_pipelines",
    ): "skips along an index of pending events (test_inbox.py)",
    ("tokens.sql", "any"): "reads an arbitrary row",
    ("tokens.sql", "list"): "lists all tokens, which people created one by one",
    ("tokens.sql", "list_valid"): "reads all valid tokens, which people created one by one",
    (
        "pipelines.sql",
        "all_held_rejected",
    ): "sums up by an index of the pipelines with held records",
}

Plan = dict[str, Any]


def every_query() -> list[tuple[str, str]]:
    files = (resources.files("service_server.store") / "sql").iterdir()
    return [(file.name, name) for file in files for name in load_queries(file.name)]


@pytest.fixture(scope="module")
def full_database_url(postgres_cluster: PostgresCluster) -> Iterator[str]:
    """Return the URL of a database with thousands of pipelines, which no test may change."""

    async def make() -> str:
        await postgres_cluster.trade_durability_for_speed()
        name = await postgres_cluster.create_database()
        async with Database.open(postgres_cluster.url(name)) as database:
            await migrate(database)
        await fill(postgres_cluster.url(name))
        return name

    name = asyncio.run(make())
    yield postgres_cluster.url(name)
    asyncio.run(postgres_cluster.drop_database(name))


def value(kind: str) -> str:
    element = kind.removesuffix("[]")
    return VALUES[kind] if element == kind else f"ARRAY[{VALUES[element]}]::{kind}"


async def plan(url: str, query: str, *, generic: bool) -> Plan:
    """Return the plan of a query, for unknown parameters if ``generic``."""
    connection = await asyncpg.connect(url)
    try:
        parameters = (await connection.prepare(query)).get_parameters()
        await connection.execute(f"PREPARE one AS {query}")
        mode = "force_generic_plan" if generic else "force_custom_plan"
        await connection.execute(f"SET plan_cache_mode = {mode}")
        arguments = ", ".join(value(parameter.name) for parameter in parameters)
        explained = await connection.fetchval(
            f"EXPLAIN (FORMAT JSON) EXECUTE one{f' ({arguments})' if arguments else ''}"
        )
    finally:
        await connection.close()
    found: Plan = json.loads(explained)[0]["Plan"]
    return found


def faults(node: Plan) -> Iterator[str]:
    """Yield the parts of a plan whose cost grows with the tables."""
    name = node.get("Relation Name") or node.get("Index Name")
    match node["Node Type"]:
        case "Seq Scan":
            yield f"reads all of {name}"
        case "Index Scan" | "Index Only Scan" | "Bitmap Index Scan" if "Index Cond" not in node:
            yield f"reads all of {name}"
        case "Sort" if node["Plan Rows"] > SORTED_ROWS:
            yield f"sorts {node['Plan Rows']} rows"
    for inner in node.get("Plans", ()):
        yield from faults(inner)


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize(("file", "name"), every_query())
async def test_no_query_reads_a_whole_table(
    full_database_url: str, file: str, name: str, generic: bool
) -> None:
    if (file, name) in EXCEPTIONS:
        pytest.skip(EXCEPTIONS[file, name])
    found = await plan(full_database_url, load_queries(file)[name], generic=generic)
    assert list(faults(found)) == [], json.dumps(found, indent=1)


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("SELECT * FROM pipesync.pipelines WHERE status = $1", "reads all of pipelines"),
        ("SELECT * FROM pipesync.runs ORDER BY progress LIMIT 3", "reads all of runs"),
        ("SELECT * FROM pipesync.runs WHERE pipeline_id > $1 ORDER BY progress", "sorts"),
        ("SELECT count(*) FROM pipesync.runs", "reads all of runs"),
    ],
)
async def test_a_query_that_reads_a_whole_table_is_detected(
    full_database_url: str, query: str, fault: str
) -> None:
    found = await plan(full_database_url, query, generic=False)
    assert fault in " ".join(faults(found))


async def test_every_reference_to_a_pipeline_has_an_index(full_database_url: str) -> None:
    connection = await asyncpg.connect(full_database_url)
    try:
        without = await connection.fetch(
            "SELECT conrelid::regclass FROM pg_constraint AS one"
            " WHERE contype = 'f' AND connamespace = 'pipesync'::regnamespace AND NOT EXISTS ("
            " SELECT FROM pg_index WHERE indrelid = conrelid AND indpred IS NULL"
            " AND conkey = (indkey::int2[])[0:cardinality(conkey) - 1])"
        )
    finally:
        await connection.close()
    assert without == []
