"""The bounds on a server's answers, message by message."""

import struct

import pytest

from pipesync_postgres import answers
from pipesync_postgres.answers import MIB, NONSENSE, Answers, ProtocolViolation


def message(kind: bytes, body: bytes = b"") -> bytes:
    """Return a message of the server."""
    return kind + struct.pack("!I", len(body) + 4) + body


ROW = message(b"D", struct.pack("!HI", 1, 3) + b"abc")
NOTICE = message(b"N", b"SNOTICE\0C00000\0Mrow 1\0\0")
DONE = message(b"C", b"SELECT 1\0")
READY = message(b"Z", b"I")
QUERY = b"Q\0\0\0\x06x\0"
SYNC = b"S\0\0\0\4"
FLUSH = b"H\0\0\0\4"


def asked(*requests: bytes) -> Answers:
    """Return the answers of a server that has got these requests."""
    given = Answers()
    for request in requests or (QUERY,):
        given.expect(request)
    return given


@pytest.mark.parametrize("size", [1, 2, 4, 5, 6, 7, 11, 29, 1000])
def test_notices_are_left_out_however_the_data_are_split(size: int) -> None:
    sent = NOTICE + ROW + NOTICE + NOTICE + ROW + DONE + NOTICE + READY + NOTICE
    given = asked()
    parts = [sent[begin : begin + size] for begin in range(0, len(sent), size)]
    assert b"".join(map(given.follow, parts)) == ROW + ROW + DONE + READY


@pytest.mark.parametrize("requests", [[QUERY], [b"P\0\0\0\4" + SYNC], [FLUSH, SYNC]])
def test_each_request_has_one_end(requests: list[bytes]) -> None:
    given = asked(*requests)
    assert given.follow(READY) == READY
    with pytest.raises(ProtocolViolation, match=NONSENSE):
        given.follow(READY)


def test_a_description_has_no_end() -> None:
    given = asked(FLUSH)
    given.follow(message(b"1"))
    with pytest.raises(ProtocolViolation, match=NONSENSE):
        given.follow(READY)


@pytest.mark.parametrize("kind", [b"1", b"2", b"C", b"T", b"n"])
def test_between_statements_nothing_is_answered(kind: bytes) -> None:
    given = asked()
    given.follow(READY + NOTICE + message(b"S", b"a\0b\0"))
    with pytest.raises(ProtocolViolation, match=NONSENSE):
        given.follow(message(kind, b"\0\0\0"))


@pytest.mark.parametrize(
    "sent", [NOTICE, message(b"S", b"a\0b\0"), message(b"A", b"\0\0\0\1c\0\0")]
)
def test_what_a_server_sends_unasked_is_bounded_between_statements(sent: bytes) -> None:
    given = asked()
    given.limit = MIB
    given.follow(READY)
    with pytest.raises(ProtocolViolation, match="larger than 1 MiB"):
        given.follow(sent * 20_000)


def test_notices_of_a_trigger_for_each_row_of_a_large_batch_are_accepted() -> None:
    given = asked()
    for _ in range(100):
        assert given.follow(NOTICE * 3000) == b""
    assert given.held == 0


def test_an_answer_holds_its_rows_until_its_end() -> None:
    given = asked(QUERY, QUERY)
    given.follow(ROW * 100)
    assert given.held > len(ROW) * 100
    given.follow(DONE + READY)
    assert given.held == 0


def test_a_page_of_ids_holds_less_than_what_is_free() -> None:
    given = asked()
    row = message(b"D", struct.pack("!HI", 2, 30) + b"x" * 30 + struct.pack("!I", 8) + bytes(8))
    given.follow(row * answers._PAGE_ROWS)
    assert given.held < MIB


def test_many_small_rows_and_many_columns_count_as_what_they_hold() -> None:
    narrow, wide = asked(), asked()
    narrow.limit = wide.limit = 32 * MIB
    with pytest.raises(ProtocolViolation, match="larger than 32 MiB"):
        narrow.follow(message(b"D", bytes(2)) * 80_000)
    wide.follow(message(b"T", struct.pack("!H", 1000)))
    with pytest.raises(ProtocolViolation, match="larger than 32 MiB"):
        wide.follow(message(b"D", struct.pack("!H", 1000)) * 1000)
