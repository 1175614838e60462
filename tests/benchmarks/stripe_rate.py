"""Use of a Stripe account's rate limit by a read, and the seconds that this saves.

The account is far away and refuses requests beyond its limit, which the source knows. Each object
must arrive exactly once, and no request may be refused.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from pipesync_client import EngineClient
from tests.benchmarks.parts import Bounds, run
from tests.benchmarks.plain_reader import plain_seconds
from tests.benchmarks.stripe_account import pages_of, simulated_account
from tests.benchmarks.stripe_reading import all_streams, read
from tests.stripe_simulator.seeds.histories import History

# Requests a second, of the whole account: no endpoint has a limit of its own.
RATE = 50.0
# Seconds.
LATENCY = 0.2
LATENCY_WHEN_EMPTY = 0.1
ONE_STREAM = [History(stream="charges", shape="even", count=100_000)]
TWELVE_STREAMS = [
    History(stream=stream, shape="even", count=10_000)
    for stream in (
        "balance_transactions",
        "charges",
        "checkout_sessions",
        "coupons",
        "customers",
        "disputes",
        "invoices",
        "payment_intents",
        "payouts",
        "prices",
        "refunds",
        "setup_intents",
    )
]
# As a multiple of the time for all pages at the full rate.
ALLOWED_TIME = 1.06
# A hundred empty streams in 4 seconds, and proportionally less for fewer.
ALLOWED_SECONDS_AN_EMPTY_STREAM = 0.04
# The plain reader's time for the other pages is extrapolated from these.
PLAIN_PAGES = 30


async def _one(client: EngineClient, bounds: Bounds, console: Console) -> None:
    """Read one long stream."""
    await _at_full_rate(client, bounds, console, ONE_STREAM, "one long stream")


async def _twelve(client: EngineClient, bounds: Bounds, console: Console) -> None:
    """Read twelve shorter streams at once."""
    await _at_full_rate(client, bounds, console, TWELVE_STREAMS, "twelve streams at once")


async def _at_full_rate(
    client: EngineClient,
    bounds: Bounds,
    console: Console,
    histories: Sequence[History],
    name: str,
) -> None:
    pages, objects = pages_of(histories), sum(history.count for history in histories)
    async with simulated_account(*histories, latency=LATENCY, rate=RATE) as account:
        reading = await read(client, account, rate_limit=RATE)
        plain = await plain_seconds(account, PLAIN_PAGES) / PLAIN_PAGES * pages
    ideal = pages / RATE
    columns = ("pages", "requests", "requests / pages", "refused", "seconds", "seconds / ideal")
    table = Table("", *columns)
    table.add_row(
        "pipesync",
        f"{pages:,}",
        f"{reading.requests:,}",
        f"{reading.requests / pages:.3f}",
        bounds.at_most(0, reading.refused, f"refused, {name}", shown_as=","),
        f"{reading.seconds:.1f}",
        bounds.at_most(ALLOWED_TIME, reading.seconds / ideal, f"seconds / ideal, {name}"),
    )
    one_by_one = (f"{pages:,}", f"{pages:,}", "1.000", "", f"{plain:.1f}", f"{plain / ideal:.3f}")
    table.add_row("page after page", *one_by_one)
    console.print(
        f"{objects:,} objects in {name}, {LATENCY:g} s away, {RATE:g} requests a second allowed: "
        f"{ideal:g} s would be ideal"
    )
    console.print(table)
    console.print(
        f"{plain / reading.seconds:.1f} times as fast as a reader that asks for one page after the "
        f"other: {PLAIN_PAGES} pages of it were measured, the rest follows from them."
    )


async def _empty(client: EngineClient, bounds: Bounds, console: Console) -> None:
    """Read all streams of an empty account."""
    streams = await all_streams(client)
    async with simulated_account(latency=LATENCY_WHEN_EMPTY, rate=RATE) as account:
        reading = await read(client, account, streams, rate_limit=RATE)
    table = Table("", "requests", "refused", "seconds", "seconds / ideal", "seconds a stream")
    ideal = len(streams) / RATE
    table.add_row(
        f"{len(streams)} empty streams",
        f"{reading.requests:,}",
        bounds.at_most(0, reading.refused, "refused, empty streams", shown_as=","),
        f"{reading.seconds:.2f}",
        f"{reading.seconds / ideal:.3f}",
        bounds.at_most(
            ALLOWED_SECONDS_AN_EMPTY_STREAM,
            reading.seconds / len(streams),
            "seconds an empty stream",
        ),
    )
    console.print(f"No objects, {LATENCY_WHEN_EMPTY:g} s away, {RATE:g} requests a second allowed")
    console.print(table)


if __name__ == "__main__":
    run({"one": _one, "twelve": _twelve, "empty": _empty})
