"""The memory of unfinished answers: the largest makes way."""

from pipesync_postgres import answer_memory
from pipesync_postgres.answer_memory import MIB, AnswerMemory, AnswerMemoryExhausted


class Reader:
    """A connection that reads an answer."""

    def __init__(self) -> None:
        self.error: ConnectionError | None = None

    def drop(self, error: ConnectionError) -> None:
        """Take note of the error."""
        self.error = error


def test_the_largest_answer_makes_way_for_a_smaller_one() -> None:
    memory, large, small, page = AnswerMemory(), Reader(), Reader(), Reader()
    memory.hold(large, 180 * MIB)
    memory.hold(small, 70 * MIB)
    memory.hold(page, 10 * MIB)
    assert isinstance(large.error, AnswerMemoryExhausted)
    assert (small.error, page.error) == (None, None)
    memory.hold(page, 180 * MIB)
    assert (small.error, page.error) == (None, None)


def test_an_answer_that_grows_beyond_the_memory_is_dropped() -> None:
    memory, one = AnswerMemory(), Reader()
    for size in range(1, 258):
        memory.hold(one, size * MIB)
    assert one.error is None
    memory.hold(one, 258 * MIB)
    assert isinstance(one.error, AnswerMemoryExhausted)


def test_small_answers_are_free_however_many_there_are() -> None:
    memory, readers = AnswerMemory(), [Reader() for _ in range(1000)]
    for reader in readers:
        memory.hold(reader, answer_memory._FREE_BYTES)
    assert not [reader for reader in readers if reader.error]


def test_an_answer_that_ends_gives_its_memory_back() -> None:
    memory, readers = AnswerMemory(), [Reader() for _ in range(10)]
    for reader in readers:
        memory.hold(reader, 200 * MIB)
        memory.hold(reader, 0)
        memory.release(reader)
    assert not [reader for reader in readers if reader.error]
