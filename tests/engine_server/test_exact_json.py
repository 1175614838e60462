"""JSON whose numbers come out as they went in."""

import pytest

from engine_server import exact_json


@pytest.mark.parametrize(
    "number",
    ["9223372036854775807", "18446744073709551616", "-9223372036854775809", "1" * 40, "1.5", "2.0"],
)
def test_no_number_changes_on_its_way_through(number: str) -> None:
    text = b'{"n":%s,"name":"Zo\xc3\xab"}' % number.encode()
    assert exact_json.encode(exact_json.decode(text)) == text


@pytest.mark.parametrize("body", [b"", b'{"data": [', b"<html></html>", b'{"n": ' + b"1" * 30])
def test_what_is_no_whole_json_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        exact_json.decode(body)
