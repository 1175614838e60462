from typing import Any

import orjson
import pytest

from engine_server.connectors.stripe.lists.list_page import ListedObject, decode_list
from engine_server.connectors.stripe.records import RecordMetadata

METADATA = RecordMetadata(account_id="acct_1", known_until=50)
Document = dict[str, Any]


def listed(text: str) -> ListedObject:
    """Return the object as part of a list."""
    answer = decode_list(b'{"data":[%b],"has_more":false}' % text.encode())
    assert answer is not None
    return answer.objects[0]


def test_a_record_carries_its_account_and_the_time_of_the_response() -> None:
    expected = '{"id":"cus_1","name":"Zoë","_account_id":"acct_1","_updated_at":50}'.encode()
    assert METADATA.add_to_text(listed('{"id":"cus_1","name":"Zoë"}')) == expected
    assert METADATA.add_to_object({"id": "cus_1", "name": "Zoë"}) == expected


def test_an_object_without_fields_carries_them_too() -> None:
    assert orjson.loads(METADATA.add_to_text(listed("{ }"))) == {
        "_account_id": "acct_1",
        "_updated_at": 50,
    }


@pytest.mark.parametrize("updated", [40, 51, "2026-01-01T00:00:00Z", None, True])
def test_an_objects_own_time_of_update_is_not_that_of_its_record(updated: object) -> None:
    record: Document = {"id": "a", "updated": updated}
    text = orjson.dumps(record).decode()
    for made in (METADATA.add_to_object(record), METADATA.add_to_text(listed(text))):
        assert orjson.loads(made)["_updated_at"] == 50


@pytest.mark.parametrize(
    "value",
    [
        "18446744073709551616",
        "-9223372036854775809",
        "0.1234567890123456789012345678901234567890",
        "1e400",
        "1.50",
        r'"\ud83d\ude00 \u0000 \/"',
    ],
)
def test_numbers_are_passed_on_exactly(value: str) -> None:
    record = METADATA.add_to_text(listed(f'{{"id":"a","value":{value}}}'))
    assert record.startswith(b'{"id":"a","value":%b,' % value.encode())
