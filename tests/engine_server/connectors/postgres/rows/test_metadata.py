"""In any notation of a record, its metadata becomes columns and the rest is stored."""

import json

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.rows.metadata import extract_metadata, with_metadata
from tests.engine_server.connectors.postgres.any_json import as_object, json_texts, words
from tests.engine_server.connectors.postgres.builders import records, stream, write

TIGHT = b',"_account_id":"acct_1","_updated_at":1700000000}'


def test_metadata_is_extracted_from_the_end_of_each_record() -> None:
    batch = [b'{"id":"a"' + TIGHT, b'{"id":"b"' + TIGHT, b'{"id":"c"' + TIGHT.replace(b"17", b"18")]
    assert extract_metadata(batch) == (
        [b'{"id":"a"', b'{"id":"b"', b'{"id":"c"'],
        ["acct_1", "acct_1", "acct_1"],
        ["1700000000", "1700000000", "1800000000"],
    )


# Ends of records, as JSON texts, that are not metadata of the record itself.
LOOKALIKES = [
    '{"a":1,"_account_id":"acct_2","_updated_at":2}',
    '[{"a":1,"_account_id":"acct_2","_updated_at":2}]',
    json.dumps(TIGHT.decode()),
    '"\\\\"',
]


@given(
    fields=st.dictionaries(words, json_texts | st.sampled_from(LOOKALIKES), min_size=1, max_size=4),
    metadata=st.sampled_from(
        [TIGHT, TIGHT.replace(b":", b": "), TIGHT.replace(b"0}", b"0.5}"), b"}"]
    ),
)
def test_extracted_metadata_and_the_rest_make_up_the_record(
    fields: dict[str, str], metadata: bytes
) -> None:
    record = as_object(fields).encode().removesuffix(b"}") + metadata
    [left], [account_id], [updated_at] = extract_metadata([record])
    assert json.loads(with_metadata(left, account_id, updated_at)) == json.loads(record)
    assert bool(account_id) == bool(updated_at) == (metadata == TIGHT)
    lifted = {}
    if updated_at:
        lifted = {"_account_id": account_id, "_updated_at": int(updated_at)}
    assert {**json.loads(left + b"}"), **lifted} == json.loads(record)


WAYS = {
    "as the engine writes": '{"id":"a","n":1,"_account_id":"acct_1","_updated_at":5}',
    "with spaces": '{"id": "a", "n": 1, "_account_id": "acct_1", "_updated_at": 5}',
    "in another order": '{"_updated_at":5,"_account_id":"acct_1","id":"a","n":1}',
    "with escapes": '{"id":"a","n":1,"_account_id":"acct\\u005f1","_updated_at":5}',
    "with a number of another form": '{"id":"a","n":1,"_account_id":"acct_1","_updated_at":5.0e0}',
    # Of two fields with one name, Postgres keeps the last.
    "said twice": '{"_updated_at":6,"_account_id":"b","id":"a","n":1'
    ',"_account_id":"acct_1","_updated_at":5}',
}


@pytest.mark.parametrize("record", WAYS.values(), ids=WAYS.keys())
async def test_metadata_is_read_in_any_notation(
    config: PostgresConfig, database: asyncpg.Connection, record: str
) -> None:
    await write(config, [stream()], [records("customers", record.encode())])
    row = await database.fetchrow(
        "SELECT _account_id, extract(epoch FROM _updated_at), _raw_data FROM stripe.customers"
    )
    assert row is not None
    assert tuple(row) == ("acct_1", 5, '{"n": 1, "id": "a"}')
