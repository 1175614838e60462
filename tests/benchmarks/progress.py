"""Cost of a message in the progress record: the same with one stream and with two hundred."""

import time

from rich.console import Console
from rich.table import Table

from engine_server.progress.tracker import ProgressTracker
from pipesync.v1.message_pb2 import Message
from tests.messages import checkpoint, record_batch

FEW = 1
MANY = 200
MESSAGES = 200_000
# The fastest of several tries is the least disturbed by the rest of the machine.
TRIES = 5


def main() -> None:
    """Print the table."""
    few, many = (min(_seconds(streams) for _ in range(TRIES)) for streams in (FEW, MANY))
    table = Table("streams", "µs a message", "ratio")
    table.add_row(str(FEW), f"{few / MESSAGES * 1e6:.2f}", "1.00")
    table.add_row(str(MANY), f"{many / MESSAGES * 1e6:.2f}", f"{many / few:.2f}")
    console = Console()
    console.print("Progress: a batch of records and a checkpoint in turn, from stream after stream")
    console.print(table)


def _seconds(streams: int) -> float:
    """Return the seconds to observe all messages."""
    names = [f"stream_{number}" for number in range(streams)]
    tracker = ProgressTracker(names)
    round_of_all: list[Message] = [
        message
        for name in names
        for message in (record_batch(name, *([b"{}"] * 100)), checkpoint(name))
    ]
    rounds = MESSAGES // len(round_of_all)
    began = time.perf_counter()
    for _ in range(rounds):
        for message in round_of_all:
            tracker.observe(message)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
