"""A hostile server can neither crash the process nor block its loop during a handshake."""

import asyncio
import hashlib
import struct
import subprocess
import sys
import threading
import time

import pytest

from pipesync_postgres.password_hashes import Hashing, hash_in_thread

# A client process that connects to a server with scripted messages.
_CLIENT = """
import asyncio, asyncpg, sys
from pipesync_postgres.guarded_protocol import guard_connections
guard_connections()

async def serve(reader, writer):
    await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big") - 4)
    for part in sys.argv[2:]:
        writer.write(bytes.fromhex(part))
        if len(sys.argv) > 3 and part == sys.argv[2]:
            head = await reader.readexactly(5)
            nonce = (await reader.readexactly(int.from_bytes(head[1:], "big") - 4)).split(b"r=")[1]
            rest = b"r=" + nonce + b"x,s=QUFBQQ==,i=" + sys.argv[1].encode()
            writer.write(b"R" + (len(rest) + 8).to_bytes(4, "big") + b"\\0\\0\\0\\x0b" + rest)
    await reader.read()
    writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        await asyncpg.connect(host="127.0.0.1", port=port, user="u", password="p", ssl=False)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        print("refused", type(error).__name__)

asyncio.run(main())
"""
_LET_IN = struct.pack("!cII", b"R", 8, 0)
_READY = struct.pack("!cI", b"Z", 5) + b"I"
_BEGIN = struct.pack("!cII", b"R", 23, 10) + b"SCRAM-SHA-256\0\0"


def client(*message: bytes, rounds: int = 0) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", _CLIENT, str(rounds), *(part.hex() for part in message)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - our own


@pytest.mark.parametrize(
    "message",
    [
        struct.pack("!cII", b"R", 11, 11) + b"r=x",
        struct.pack("!cII", b"R", 11, 12) + b"v=x",
        struct.pack("!cII", b"R", 2**31 - 1, 0),
        struct.pack("!cI", b"R", 4),
        struct.pack("!cI", b"R", 0),
        _LET_IN + _READY,
        _LET_IN + struct.pack("!cI", b"S", 8) + b"a\0b\0" + _LET_IN * 600,
        _LET_IN
        + struct.pack("!cI", b"S", 5020)
        + b"server_version\0"
        + b"9" * 5000
        + b"\0"
        + _READY,
    ],
)
def test_an_unexpected_message_ends_only_its_connection(message: bytes) -> None:
    done = client(message)
    assert (done.returncode, done.stdout[:7]) == (0, "refused"), done.stderr


def test_a_server_that_demands_too_many_rounds_is_disconnected() -> None:
    began = time.monotonic()
    done = client(_BEGIN, b"", rounds=2**31 - 1)
    assert (done.returncode, done.stdout[:7]) == (0, "refused"), done.stderr
    assert time.monotonic() - began < 30


def test_passwords_are_hashed_in_a_thread_cheapest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    began, go_on, hashed = threading.Event(), threading.Event(), list[int]()

    def pbkdf2_hmac(name: str, password: bytes, salt: bytes, rounds: int) -> bytes:
        began.set()
        assert threading.current_thread() is not threading.main_thread()
        assert go_on.wait(30)
        hashed.append(rounds)
        return b"%d" % rounds

    async def hash_all() -> list[bytes]:
        first = hash_in_thread(Hashing("sha256", b"p", b"s", 1))
        await asyncio.to_thread(began.wait)
        others = [
            hash_in_thread(Hashing("sha256", b"p", b"s", rounds)) for rounds in (9, 200_000, 4096)
        ]
        others[0].cancel()
        await asyncio.sleep(0)
        go_on.set()
        return await asyncio.gather(first, *others[1:])

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", pbkdf2_hmac)
    assert asyncio.run(hash_all()) == [b"1", b"200000", b"4096"]
    assert hashed == [1, 4096, 200_000]
