from typing import Any

import orjson
import pytest

from engine_server.connectors.stripe.listed import ListedObject, decode_list
from engine_server.connectors.stripe.records import Stamps

STAMPS = Stamps(account_id="acct_1", known_until=50)
Document = dict[str, Any]


def listed(text: str) -> ListedObject:
    """The object as a list brings it."""
    answer = decode_list(b'{"data":[%b],"has_more":false}' % text.encode())
    assert answer is not None
    return answer.objects[0]


def test_a_record_is_stamped_with_its_account_and_the_time_of_the_answer() -> None:
    expected = '{"id":"cus_1","name":"Zoë","_account_id":"acct_1","_updated_at":50}'.encode()
    assert STAMPS.on_text(listed('{"id":"cus_1","name":"Zoë"}')) == expected
    assert STAMPS.on_object({"id": "cus_1", "name": "Zoë"}) == expected


def test_an_object_without_fields_is_stamped_too() -> None:
    assert orjson.loads(STAMPS.on_text(listed("{ }"))) == {
        "_account_id": "acct_1",
        "_updated_at": 50,
    }


@pytest.mark.parametrize("updated", [40, 51, "2026-01-01T00:00:00Z", None, True])
def test_what_an_object_says_of_its_own_last_update_is_no_stamp(updated: object) -> None:
    record: Document = {"id": "a", "updated": updated}
    text = orjson.dumps(record).decode()
    for stamped in (STAMPS.on_object(record), STAMPS.on_text(listed(text))):
        assert orjson.loads(stamped)["_updated_at"] == 50


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
def test_what_was_sent_is_passed_on_to_the_last_digit(value: str) -> None:
    record = STAMPS.on_text(listed(f'{{"id":"a","value":{value}}}'))
    assert record.startswith(b'{"id":"a","value":%b,' % value.encode())
