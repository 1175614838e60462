"""Hashing of passwords for SCRAM in a thread, because the server sets the number of rounds.

The driver hashes on the event loop, by the ``hashlib`` of its module, which this module replaces.
"""

import asyncio
import hashlib
import itertools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import PriorityQueue
from types import SimpleNamespace
from typing import NamedTuple

import asyncpg.protocol.protocol


class Hashing(NamedTuple):
    """The arguments of ``hashlib.pbkdf2_hmac``."""

    name: str
    password: bytes
    salt: bytes
    rounds: int


class HashNeeded(BaseException):
    """The driver needs a hash that is not known.

    Attributes:
        hashing: The arguments of the hash.
    """

    def __init__(self, hashing: Hashing) -> None:
        super().__init__()
        self.hashing = hashing


# The hashes that the driver may ask for at this moment.
_known: dict[Hashing, bytes] = {}
# Cheapest first: a server that demands many rounds delays no ordinary login.
_waiting: PriorityQueue[tuple[int, int, Hashing, Future[bytes]]] = PriorityQueue()
_numbers = itertools.count()
_thread = ThreadPoolExecutor(1, thread_name_prefix="password-hashes")


def hash_in_thread(hashing: Hashing) -> asyncio.Future[bytes]:
    """Return the future hash; cancelling it leaves out the work if that has not begun."""
    result = Future[bytes]()
    _waiting.put((hashing.rounds, next(_numbers), hashing, result))
    _thread.submit(_hash_cheapest)
    return asyncio.wrap_future(result)


@contextmanager
def known_hash(hashing: Hashing, result: bytes) -> Iterator[None]:
    """Let the driver know a hash for the length of the body."""
    _known[hashing] = result
    try:
        yield
    finally:
        del _known[hashing]


def hash_off_the_loop() -> None:
    """Have the driver raise ``HashNeeded`` instead of hashing."""
    replaced = SimpleNamespace(**vars(hashlib))
    replaced.pbkdf2_hmac = _find_known
    vars(asyncpg.protocol.protocol)["hashlib"] = replaced


def _hash_cheapest() -> None:
    *_, hashing, result = _waiting.get_nowait()
    if not result.set_running_or_notify_cancel():
        return
    try:
        result.set_result(hashlib.pbkdf2_hmac(*hashing))
    except Exception as error:
        result.set_exception(error)


def _find_known(name: str, password: bytes, salt: bytes, rounds: int) -> bytes:
    hashing = Hashing(name, password, salt, rounds)
    if rounds < 1:
        raise ValueError("a hash has at least one round")
    if hashing not in _known:
        raise HashNeeded(hashing)
    return _known[hashing]
