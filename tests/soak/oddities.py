"""Oddities of an account and its tables: old API versions, refused look-ups, refused rows."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from aiohttp import web

from tests.stripe_simulator import errors
from tests.stripe_simulator.faults import Serve
from tests.stripe_simulator.simulator import StripeSimulator

# Events of this version are not safe to write: their objects are looked up.
OLD_VERSION = "2020-08-27"
# The tables of ``refuse_rows`` refuse values that contain this word.
REFUSED = "refused"
# The streams whose tables refuse rows, with the field that each table checks.
REFUSING = {"charges": "description", "customers": "name", "products": "name"}

_NOT_STORABLE = re.compile(r"[\x00\ud800-\udfff]")
_CANNOT = errors.invalid_request(400, "This object cannot be retrieved.", code="no_such_way")

# The ways in which a user's table can refuse a row: a constraint, a trigger, a trigger at the
# commit.
_TABLES = """
ALTER TABLE "{schema}".customers ADD CONSTRAINT no_refused
    CHECK (_raw_data ->> 'name' NOT LIKE '%refused%');
CREATE FUNCTION "{schema}".refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW._raw_data ->> TG_ARGV[0] LIKE '%refused%' THEN
        RAISE EXCEPTION 'this value is refused';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON "{schema}".charges
    FOR EACH ROW EXECUTE FUNCTION "{schema}".refuse('description');
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE ON "{schema}".products
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION "{schema}".refuse('name');
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Oddities:
    """Oddities of an account.

    Attributes:
        characters: Whether values hold characters that Postgres cannot store.
        rejections: Whether some values are ones that its tables refuse.
        version_lasts: The number of changes after which the account's default API version becomes
            the old one, and then that of the rows again; 0 leaves it as it is.
        unshown: The ids of objects that Stripe refuses to show when they are looked up, by stream.
    """

    characters: bool = False
    rejections: bool = False
    version_lasts: int = 0
    unshown: Mapping[str, frozenset[str]] = field(default_factory=dict)


def some_of(simulator: StripeSimulator, *streams: str, each: int) -> dict[str, frozenset[str]]:
    """Return the ids of ``each`` objects of each stream."""
    return {stream: frozenset(sorted(simulator.objects(stream).ids())[:each]) for stream in streams}


def refuse_lookups(simulator: StripeSimulator, unshown: Mapping[str, frozenset[str]]) -> None:
    """Make Stripe refuse to show these objects when they are looked up; lists show them."""
    paths = {f"/v1/{stream}/{object_id}" for stream, ids in unshown.items() for object_id in ids}

    async def fault(request: web.Request, serve: Serve) -> web.StreamResponse:
        return _CANNOT.response() if request.path in paths else await serve(request)

    simulator.faults.add(fault, method="GET", times=None)


async def refuse_rows(database_url: str, *, schema: str = "stripe") -> None:
    """Make the tables of a schema refuse some rows from now on."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(_TABLES.format(schema=schema))
    finally:
        await connection.close()


def is_refused(stream: str, document: Mapping[str, Any]) -> bool:
    """Return whether the table of a stream refuses this version of an object."""
    name = REFUSING.get(stream)
    return name is not None and REFUSED in (document.get(name) or "")


def storable(value: Any) -> Any:
    """Return a value as Postgres can store it."""
    match value:
        case str():
            return _NOT_STORABLE.sub("\N{REPLACEMENT CHARACTER}", value)
        case dict():
            return {storable(name): storable(child) for name, child in value.items()}
        case list():
            return [storable(child) for child in value]
    return value
