"""The bounds on a server's messages before a connection is ready."""

import struct

import pytest

from pipesync_postgres.answers import ProtocolViolation
from pipesync_postgres.login import Login


def message(kind: bytes, body: bytes = b"") -> bytes:
    """Return a message of the server."""
    return kind + struct.pack("!I", len(body) + 4) + body


VERSION = message(b"S", b"server_version\x0018.1\0")
READY = message(b"Z", b"I")


def taken(login: Login) -> list[bytes]:
    """Return the messages that have arrived."""
    return list(iter(login.take, b""))


@pytest.mark.parametrize("size", [1, 3, 5, 8, 100])
def test_messages_are_taken_whole(size: int) -> None:
    login, sent, found = Login(), VERSION + message(b"K", bytes(8)) + READY, list[bytes]()
    for begin in range(0, len(sent), size):
        login.add(sent[begin : begin + size])
        found += taken(login)
    assert found == [VERSION, message(b"K", bytes(8)), READY]
    assert login.is_done


def test_data_behind_a_login_stay() -> None:
    login = Login()
    login.add(VERSION + READY + b"more")
    taken(login)
    assert login.rest == b"more"


@pytest.mark.parametrize("sent", [message(b"N", bytes(70_000)), message(b"N", bytes(1000)) * 70])
def test_a_long_login_is_a_violation(sent: bytes) -> None:
    login = Login()
    with pytest.raises(ProtocolViolation):
        login.add(sent)


def test_many_messages_are_a_violation() -> None:
    login = Login()
    login.add(message(b"S", b"a\0b\0") * 501)
    with pytest.raises(ProtocolViolation):
        taken(login)


def test_too_many_rounds_are_named() -> None:
    login = Login()
    login.add(
        message(b"R", struct.pack("!I", 10) + b"SCRAM-SHA-256\0\0")
        + message(b"R", struct.pack("!I", 11) + b"r=a,s=QQ==,i=200001")
    )
    with pytest.raises(ProtocolViolation, match="more than 200000 rounds"):
        taken(login)
