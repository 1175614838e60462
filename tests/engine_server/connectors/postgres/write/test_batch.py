"""Several streams at once: large ones are flushed in turn, small ones with any flush."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

import asyncpg
import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.postgres.rows import batch as batch_module
from engine_server.connectors.postgres.rows.batch import WORTHWHILE_ROWS, Batch
from engine_server.state.stream_name import stream_name
from pipesync.v1.message_pb2 import Barrier, Message, RecordBatch
from tests.engine_server.connectors.postgres.builders import customer, records, stream, write
from tests.engine_server.connectors.postgres.schemas import break_at, row_count, set_up
from tests.engine_server.connectors.postgres.sessions import until_blocked
from tests.engine_server.stages.sequences import given
from tests.messages import checkpoint

NAMES = ("accounts", "customers", "products")
ENOUGH = 2000


def _batch(*pages: tuple[str, int]) -> Batch:
    """Return a batch with these pages; each page has its index as sequence number."""
    batch = Batch(max_rows=ENOUGH, key_readers={})
    for number, page in enumerate(pages):
        _add(batch, *page, number)
    return batch


def _add(batch: Batch, name: str, count: int, number: int) -> None:
    batch.add(RecordBatch(stream=name, records=[b"{}"] * count), number)


def _taken(batch: Batch) -> dict[str, int]:
    return {name: len(gathered.rows) for name, gathered in batch.take().items()}


def test_large_streams_are_flushed_one_by_one_the_oldest_first() -> None:
    batch = _batch(("b", WORTHWHILE_ROWS), ("a", WORTHWHILE_ROWS), ("c", 700), ("a", 900))
    assert _taken(batch) == {"b": WORTHWHILE_ROWS}
    _add(batch, "b", 1000, 4)
    assert _taken(batch) == {"a": WORTHWHILE_ROWS + 900}
    assert _taken(batch) == {"c": 700}
    assert _taken(batch) == {"b": 1000}
    assert not batch


def test_small_streams_go_with_whichever_is_next() -> None:
    batch = _batch(("small", 499), ("large", 600), ("smaller", 1), ("larger", 800))
    assert _taken(batch) == {"small": 499, "large": 600, "smaller": 1}
    assert _taken(batch) == {"larger": 800}


def test_small_streams_alone_go_together() -> None:
    assert _taken(_batch(("a", 400), ("b", 300), ("a", 99))) == {"a": 499, "b": 300}


@pytest.mark.parametrize(
    ("pages", "is_full"),
    [
        ([("a", ENOUGH - 1)], False),
        ([("a", ENOUGH)], True),
        ([("a", ENOUGH - 1), ("b", 1000)], False),
        ([("a", ENOUGH - 1), ("b", 1001)], True),
        ([(f"stream_{number}", 100) for number in range(30)], True),
    ],
)
def test_it_is_full_with_enough_of_one_stream_or_half_as_many_again_of_all(
    pages: list[tuple[str, int]], is_full: bool
) -> None:
    assert _batch(*pages).is_full() == is_full


def test_the_remaining_batch_may_still_be_full() -> None:
    batch = _batch(("a", 600), ("b", ENOUGH))
    assert _taken(batch) == {"a": 600}
    assert batch.is_full()
    assert _taken(batch) == {"b": ENOUGH}
    assert not batch.is_full()


def test_urgent_rows_stay_urgent_until_they_are_flushed() -> None:
    batch = _batch(("a", 600), ("b", 600))
    batch.flush_now()
    batch.take()
    assert batch.seconds_until_due() == 0.0
    batch.take()
    _add(batch, "a", 1, 2)
    assert batch.seconds_until_due() != 0.0


_PAGES = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 900)), max_size=40)


@for_all(pages=_PAGES, takes=st.sets(st.integers(0, 40)))
def test_every_row_is_flushed_once_and_the_sequence_number_is_that_of_the_oldest(
    pages: list[tuple[str, int]], takes: set[int]
) -> None:
    batch = Batch(max_rows=ENOUGH, key_readers={})
    added: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    # Sequence numbers of the pages whose rows are not flushed yet.
    numbers: dict[int, str] = {}

    def take() -> None:
        oldest = min(numbers)
        flushed = batch.take()
        # So neither a stream nor messages behind it wait forever.
        assert numbers[oldest] in flushed
        sizes = [len(gathered.rows) for gathered in flushed.values()]
        assert sum(size >= WORTHWHILE_ROWS for size in sizes) <= 1
        for name, gathered in flushed.items():
            taken[name] += len(gathered.rows)
            assert gathered.first_sequence_number == min(
                at for at, of in numbers.items() if of == name
            )
        for number in [at for at, name in numbers.items() if name in flushed]:
            del numbers[number]

    for number, (name, count) in enumerate(pages):
        _add(batch, name, count, number)
        added[name] += count
        if count:
            numbers[number] = name
        assert batch.first_sequence_number == min(numbers, default=None)
        if number in takes and batch:
            take()
    while batch:
        take()
    assert taken == added
    assert not numbers


@pytest.fixture
def small_batches(database_url: str, monkeypatch: pytest.MonkeyPatch) -> PostgresConfig:
    """Two rows are worth a flush; four rows of one stream or six of all fill the batch."""
    monkeypatch.setattr(batch_module, "WORTHWHILE_ROWS", 2)
    return PostgresConfig.model_validate({"url": database_url, "batch_size": 4})


def _pages(count: int) -> Iterator[Message]:
    """Yield pages of three streams at different rates: records, then a checkpoint of the count."""
    came: Counter[str] = Counter()
    for number in range(count):
        for name, rows in (("accounts", 1), ("customers", 3), ("products", int(number % 5 == 2))):
            page = [customer(came[name] + row) for row in range(rows)]
            came[name] += rows
            yield records(name, *page)
            yield checkpoint(name, str(came[name]))


async def test_large_streams_have_a_commit_each(
    small_batches: PostgresConfig, database: asyncpg.Connection
) -> None:
    streams = [stream(name) for name in NAMES]
    await set_up(small_batches, *streams)
    both_wait, all_came = asyncio.Event(), asyncio.Event()

    async def source() -> AsyncGenerator[Message, None]:
        yield records("customers", customer(1), customer(2))
        yield records("customers", *[customer(number) for number in range(3, 7)])
        await both_wait.wait()
        yield records("accounts", customer(1), customer(2))
        yield records("products", customer(1), customer(2))
        all_came.set()

    async with database.transaction():
        await database.execute("LOCK TABLE stripe.customers IN EXCLUSIVE MODE")
        writing = asyncio.create_task(write(small_batches, streams, source()))
        await until_blocked(database, 2)
        both_wait.set()
        await all_came.wait()
    await writing
    commits = [
        await database.fetch(f"SELECT DISTINCT xmin::text FROM stripe.{name}")  # noqa: S608 - ours
        for name in ("accounts", "products")
    ]
    assert [len(of_stream) for of_stream in commits] == [1, 1]
    assert commits[0] != commits[1]


async def test_every_message_is_yielded_in_order_and_after_its_rows(
    small_batches: PostgresConfig, database: asyncpg.Connection
) -> None:
    messages = list(_pages(12))
    yielded: list[Message] = []
    outgoing = PostgresDestination().write(
        small_batches, [stream(name) for name in NAMES], given(*messages)
    )
    async with aclosing(outgoing):
        async for message in outgoing:
            if message.WhichOneof("payload") in ("log", "rows_written", "rejected_records"):
                continue
            yielded.append(message)
            if message.HasField("source_state"):
                state = message.source_state
                assert await row_count(database, state.stream) >= int(state.data)
    assert yielded == messages


async def test_stopped_anywhere_no_stream_is_ahead_of_its_rows(
    small_batches: PostgresConfig, database: asyncpg.Connection
) -> None:
    streams = [stream(name) for name in NAMES]
    await set_up(small_batches, *streams)
    messages = list(_pages(5))
    for stop_after in range(len(messages)):
        await database.execute("TRUNCATE " + ", ".join(f"stripe.{name}" for name in NAMES))
        reached: dict[str, int] = {}
        outgoing = PostgresDestination().write(small_batches, streams, given(*messages))
        async with aclosing(outgoing):
            for _ in range(stop_after):
                message = await anext(outgoing)
                if message.HasField("source_state"):
                    reached[message.source_state.stream] = int(message.source_state.data)
        for name, count in reached.items():
            ids = await database.fetch(f"SELECT id FROM stripe.{name}")  # noqa: S608 - ours
            assert {f"cus_{number}" for number in range(count)} <= {row["id"] for row in ids}


@pytest.mark.parametrize("refused", NAMES)
async def test_a_refused_stream_takes_no_other_with_it(
    small_batches: PostgresConfig, database: asyncpg.Connection, refused: str
) -> None:
    streams = [stream(name) for name in NAMES]
    await set_up(small_batches, *streams)
    await break_at(database, refused, "cus_poison")
    messages = list(_pages(12))
    numbers = [at for at, one in enumerate(messages) if one.record_batch.stream == refused]
    at = numbers[len(numbers) // 2]
    messages.insert(at, records(refused, {**customer(1), "id": "cus_poison"}))
    yielded = await write(small_batches, streams, messages)
    others = [one for one in messages if stream_name(one) != refused]
    assert [one for one in yielded if stream_name(one) != refused] == others
    of_refused = [one for one in yielded if stream_name(one) == refused]
    *passed, status = of_refused
    assert status.stream_status.HasField("errored")
    assert passed == [one for one in messages[:at] if stream_name(one) == refused][: len(passed)]
    states = [one.source_state for one in passed if one.HasField("source_state")]
    reached = max((int(state.data) for state in states), default=0)
    assert await row_count(database, refused) >= reached


async def test_a_barrier_flushes_every_stream_now(
    small_batches: PostgresConfig, database: asyncpg.Connection
) -> None:
    config = small_batches.model_copy(update={"batch_size": 100})
    barrier = Message(barrier=Barrier(number=1))

    async def source() -> AsyncGenerator[Message, None]:
        for name, first in itertools.product(NAMES, (0, 40)):
            yield records(name, *[customer(number) for number in range(first, first + 40)])
        yield barrier
        await asyncio.Event().wait()

    async with aclosing(
        PostgresDestination().write(config, [stream(name) for name in NAMES], source())
    ) as outgoing:
        while await anext(outgoing) != barrier:
            pass
        for name in NAMES:
            assert await row_count(database, name) == 80
