"""Number of requests for a Stripe account's history, against the pages that its objects fill.

The bound holds for every shape of the history and every number of calls that the read is cut into.
Each object must arrive exactly once, and a checkpoint must not grow with the objects that it
accounts for.
"""

from rich.console import Console
from rich.table import Table

from engine_server.connectors.stripe.config import StripeConfig
from pipesync_client import EngineClient
from tests.benchmarks.parts import Bounds, run
from tests.benchmarks.plain_reader import pages_per_second
from tests.benchmarks.stripe_account import pages_of, simulated_account
from tests.benchmarks.stripe_reading import Reading, read
from tests.stripe_simulator.seeds.histories import History

STREAM = "charges"
# Seconds: long enough for requests to overlap.
LATENCY = 0.05
MANY, FEW, SPARSE = 100_000, 20_000, 3
HISTORIES = {
    "even": History(stream=STREAM, shape="even", count=MANY),
    "skewed": History(stream=STREAM, shape="skewed", count=MANY),
    "bursty": History(stream=STREAM, shape="bursty", count=MANY),
    "even, shorter": History(stream=STREAM, shape="even", count=FEW),
    "sparse": History(stream=STREAM, shape="even", count=SPARSE),
    "empty": History(stream=STREAM, shape="even", count=0),
}
STATE_LIMITS = (10, 1)
# Never reached; without a rate limit the source does not economize on requests.
RATE_LIMIT = 10_000
ALLOWED_RATIO = 1.05
# One page holds all objects, but a request may be needed to learn that there are no more.
ALLOWED_RATIO_WHEN_SPARSE = 2
ALLOWED_RATIO_IN_CALLS = 1.10
# Bytes: twice as many ranges as there may be concurrent requests, since as many answers again may
# wait to be passed on; with times and a cursor, a range takes about 90.
ALLOWED_CHECKPOINT = 2 * 90 * StripeConfig.model_fields["max_concurrency"].default
# The simulator must be no bottleneck.
NEEDED_PAGES_PER_SECOND = 500


async def _ceiling(_client: EngineClient, bounds: Bounds, console: Console) -> None:
    """Measure the speed of the simulator without limits."""
    async with simulated_account(HISTORIES["even, shorter"]) as account:
        ceiling = await pages_per_second(account)
    figure = bounds.at_least(NEEDED_PAGES_PER_SECOND, ceiling, "simulator", shown_as=",.0f")
    console.print(f"The simulator itself: {figure} pages a second")


async def _histories(client: EngineClient, bounds: Bounds, console: Console) -> None:
    """Read each history in one call."""
    table = _table()
    for name, history in HISTORIES.items():
        async with simulated_account(history, latency=LATENCY) as account:
            reading = await read(client, account, rate_limit=RATE_LIMIT)
        allowed = ALLOWED_RATIO_WHEN_SPARSE if name == "sparse" else ALLOWED_RATIO
        table.add_row(name, *_figures(history, reading, allowed, name, bounds))
    console.print(f"Ten years of {STREAM}, read in one call of the engine")
    console.print(table)


async def _calls(client: EngineClient, bounds: Bounds, console: Console) -> None:
    """Read one history in calls that take a few checkpoints each."""
    table = _table()
    history = HISTORIES["even, shorter"]
    async with simulated_account(history, latency=LATENCY) as account:
        for limit in STATE_LIMITS:
            reading = await read(client, account, state_limit=limit, rate_limit=RATE_LIMIT)
            name = f"{limit} a call"
            table.add_row(name, *_figures(history, reading, ALLOWED_RATIO_IN_CALLS, name, bounds))
    console.print("The even, shorter history, read in calls that end after so many checkpoints")
    console.print(table)


def _table() -> Table:
    columns = ("objects", "calls", "pages", "requests", "requests / pages")
    return Table("", *columns, "seconds", "largest checkpoint")


def _figures(
    history: History, reading: Reading, allowed: float, name: str, bounds: Bounds
) -> tuple[str, ...]:
    pages = pages_of([history])
    checkpoint = reading.largest_checkpoint
    return (
        f"{history.count:,}",
        f"{reading.calls:,}",
        f"{pages:,}",
        f"{reading.requests:,}",
        bounds.at_most(allowed, reading.requests / pages, f"requests / pages, {name}"),
        f"{reading.seconds:.1f}",
        bounds.at_most(ALLOWED_CHECKPOINT, checkpoint, f"checkpoint, {name}", shown_as=",")
        + " bytes",
    )


if __name__ == "__main__":
    run({"ceiling": _ceiling, "histories": _histories, "calls": _calls})
