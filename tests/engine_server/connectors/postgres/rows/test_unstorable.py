"""Characters that Postgres cannot store become U+FFFD, and nothing else changes."""

import json
from typing import Any

import asyncpg
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.postgres.rows.unstorable import find_unstorable, replace_unstorable
from engine_server.text import storable
from pipesync.v1.message_pb2 import Message
from tests.engine_server.connectors.postgres.builders import records, stream, write_and_count
from tests.messages import checkpoint

_MARK = "\ufffd"

# Parts of a JSON text, and their replacements.
ESCAPES = {
    "a NUL": ("a\\u0000b", f"a{_MARK}b"),
    "two of them": ("\\u0000\\u0000", _MARK * 2),
    "a high surrogate": ("x\\ud83d", f"x{_MARK}"),
    "one in capitals": ("\\uD83Dx", f"{_MARK}x"),
    "a low surrogate": ("\\ude00", _MARK),
    "a low one in capitals": ("\\uDE00", _MARK),
    "a pair the wrong way round": ("\\ude00\\ud83d", _MARK * 2),
    "two high ones": ("\\ud83d\\ud83d", _MARK * 2),
    "a high one before a pair": ("\\ud83d\\ud83d\\ude00", f"{_MARK}😀"),
    "a low one behind a pair": ("\\ud83d\\ude00\\ude00", f"😀{_MARK}"),
    "a pair taken apart by a text": ("\\ud83d-\\ude00", f"{_MARK}-{_MARK}"),
    "a pair taken apart by an escape": ("\\ud83d\\n\\ude00", f"{_MARK}\n{_MARK}"),
    "a high one before an escaped backslash": ("\\ud83d\\\\ude00", f"{_MARK}\\ude00"),
    "a low one behind what looks like a high one": ("\\\\ud83d\\ude00", f"\\ud83d{_MARK}"),
    "one behind three backslashes": ("\\\\\\u0000", f"\\{_MARK}"),
}
UNTOUCHED = {
    "a pair": "\\ud83d\\ude00",
    "a pair in capitals": "\\uD83D\\uDE00",
    "a pair of both kinds": "\\uD83d\\udE00",
    "an escaped backslash before u0000": "\\\\u0000",
    "two of them": "\\\\\\\\u0000",
    "an escaped backslash before ud83d": "\\\\ud83d",
    "the last character before the surrogates": "\\ud7ff",
    "the first one behind them": "\\ue000",
    "another control character": "\\u0001",
    "the replacement itself": "\\ufffd",
    "digits that look like it": "u0000",
    "an escaped slash": "\\/",
}


@pytest.mark.parametrize(("escaped", "text"), ESCAPES.values(), ids=ESCAPES.keys())
def test_characters_that_postgres_cannot_store_are_replaced(escaped: str, text: str) -> None:
    record = f'{{"{escaped}":["{escaped}",1.10,"\\/"]}}'.encode()
    assert find_unstorable([b"{}", record]) == [1]
    assert b'"\\/"' in replace_unstorable(record)
    # orjson is as strict as Postgres.
    assert orjson.loads(replace_unstorable(record)) == {text: [text, 1.1, "/"]}


@pytest.mark.parametrize("escaped", UNTOUCHED.values(), ids=UNTOUCHED.keys())
def test_all_else_stays_byte_for_byte(escaped: str) -> None:
    record = f'{{"{escaped}":"{escaped}"}}'.encode()
    assert find_unstorable([record]) == []
    assert replace_unstorable(record) == record


def test_a_broken_escape_does_not_become_json() -> None:
    for broken in (b'{"a":"\\u00"}', b'{"a":"\\ud8zz"}', b'{"a":"\\ud8'):
        assert replace_unstorable(broken) == broken


_PIECES = ["\\", "\\\\", "u0000", "\\u0000", "\\ud83d", "\\uDE00", "ud83d", "\\n", "é", "😀", "d"]


@given(pieces=st.lists(st.sampled_from(_PIECES), max_size=12))
def test_any_text_is_what_a_reader_of_all_of_it_would_make_of_it(pieces: list[str]) -> None:
    text = '{"a":"' + "".join(pieces) + '"}'
    try:
        value = json.loads(text)["a"]
    except ValueError:
        return
    record = text.encode()
    assert orjson.loads(replace_unstorable(record)) == {"a": storable(value)}
    assert bool(find_unstorable([record])) == (storable(value) != value)


def _record(key: str, name: str, **more: Any) -> bytes:
    fields = "".join(f',"{field}":{json.dumps(value)}' for field, value in more.items())
    metadata = '"_account_id":"acct_1","_updated_at":1'
    return f'{{"id":"{key}","name":"{name}"{fields},{metadata}}}'.encode()


async def test_a_record_is_written_with_the_others_of_its_batch(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    sent = [
        _record("good", "Zoë \\ud83d\\ude00 \\\\u0000"),
        _record("nul", "a\\u0000b", balance=12345678901234567),
        _record("half", "\\ud83d"),
    ]
    written = await write_and_count(config, [stream()], [records("customers", *sent)])
    rows = await database.fetch("SELECT id, name, balance, _raw_data FROM stripe.customers")
    assert {row["id"]: (row["name"], row["balance"]) for row in rows} == {
        "good": ("Zoë 😀 \\u0000", None),
        "nul": (f"a{_MARK}b", 12345678901234567),
        "half": (_MARK, None),
    }
    # Messages are passed on as the source sent them.
    assert list(written[0].record_batch.records) == sent
    [counts] = [m.rows_written for m in written if m.HasField("rows_written")]
    assert (counts.rows.inserted, counts.replaced_record_count) == (3, 2)


async def test_names_of_fields_and_keys_are_replaced_too(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    first, again = (
        f'{{"id":"a\\u0000b","x\\ud800":{number},"_account_id":"acct_1","_updated_at":{number}}}'
        for number in (1, 2)
    )
    messages = [records("customers", first.encode()), records("customers", again.encode())]
    await write_and_count(config, [stream()], messages)
    await write_and_count(config, [stream()], messages)
    [row] = await database.fetch("SELECT id, _raw_data::text AS raw FROM stripe.customers")
    assert (row["id"], json.loads(row["raw"])[f"x{_MARK}"]) == (f"a{_MARK}b", 2)


async def test_a_deletion_finds_the_row_of_such_a_key(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await write_and_count(config, [stream()], [records("customers", _record("\\udc00", "x"))])
    gone = b'{"id":"\\uDC00","deleted":true,"_account_id":"acct_1","_updated_at":2}'
    await write_and_count(config, [stream()], [records("customers", gone)])
    [row] = await database.fetch("SELECT id, name, deleted FROM stripe.customers")
    assert tuple(row) == (_MARK, "x", True)


async def test_the_log_names_the_first_record_once_per_stream(config: PostgresConfig) -> None:
    other = stream("products")

    def batch(name: str, *keys: str) -> Message:
        return records(name, *(_record(key, "\\u0000") for key in keys))

    messages = [
        batch("customers", "cus_1", "cus_2"),
        checkpoint("customers"),
        batch("products", "prod_1"),
        batch("customers", "cus_3"),
    ]
    with capture_logs() as lines:
        await write_and_count(
            config.model_copy(update={"batch_size": 1}), [stream(), other], messages
        )
    warnings = [line for line in lines if line["event"] == "characters_replaced"]
    assert sorted((line["stream"], line["key"]) for line in warnings) == [
        ("customers", 'id "cus_1", _account_id "acct_1"'),
        ("products", 'id "prod_1", _account_id "acct_1"'),
    ]
    assert all(line["log_level"] == "warning" for line in warnings)


async def test_stored_rows_are_queried_by_keys_as_the_source_has_them(
    config: PostgresConfig,
) -> None:
    member = (
        b'{"id":"a\\u0000","owner":"b\\ud800","_account_id":"acct_1","_updated_at":7}',
        b'{"id":"c","owner":"d","_account_id":"acct_1","_updated_at":8}',
    )
    await write_and_count(config, [stream()], [records("customers", *member)])
    async with PostgresDestination().stored_rows(config, [stream()]) as stored_rows:
        times = await stored_rows.update_times("customers", ["a\0", "c", "\udc00"])
        held = await stored_rows.belonging_to("customers", "owner", ["b\ud800", "d"])
    assert times == {"a\0": 7, "c": 8}
    assert sorted(held) == [("b\ud800", f"a{_MARK}"), ("d", "c")]
