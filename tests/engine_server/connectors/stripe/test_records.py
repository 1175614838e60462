import orjson
import pytest

from engine_server import exact_json
from engine_server.connectors.stripe.records import encode


def test_a_record_is_stamped_with_its_account_and_the_time_of_the_answer() -> None:
    record = encode({"id": "cus_1", "name": "Zoë"}, account_id="acct_1", received_at=50)
    assert record == '{"id":"cus_1","name":"Zoë","_account_id":"acct_1","_updated_at":50}'.encode()


def test_an_object_that_says_when_it_was_updated_is_stamped_with_that() -> None:
    record = encode({"id": "a", "updated": 40}, account_id="acct_1", received_at=50)
    assert orjson.loads(record)["_updated_at"] == 40


@pytest.mark.parametrize("updated", ["2026-01-01T00:00:00Z", None, True])
def test_an_update_time_that_is_no_number_of_seconds_is_not_used(updated: object) -> None:
    record = encode({"id": "a", "updated": updated}, account_id="acct_1", received_at=50)
    assert orjson.loads(record)["_updated_at"] == 50


@pytest.mark.parametrize(
    "number",
    ["9223372036854775807", "18446744073709551616", "-9223372036854775809", "1" * 40, "1.5", "2.0"],
)
def test_no_number_changes_on_its_way_through(number: str) -> None:
    decoded = exact_json.decode(b'{"n":%s}' % number.encode())
    record = encode(decoded, account_id="acct_1", received_at=50)
    assert record.startswith(b'{"n":%s,' % number.encode())
