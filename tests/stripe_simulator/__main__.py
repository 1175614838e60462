"""Stripe simulator as a command, which prints its URL and runs until SIGTERM or Ctrl-C."""

import argparse
import asyncio
import signal
import sys
import time

import uvloop

from tests.stripe_simulator import faults
from tests.stripe_simulator.rate_limits import RateLimits
from tests.stripe_simulator.seeds.histories import SHAPES, History
from tests.stripe_simulator.seeds.plan import SEEDED_STREAMS, SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.stripe_simulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--api-key", default="sk_test_simulator", help="the one that is let in")
    parser.add_argument("--account-id", default="acct_simulator")
    parser.add_argument("--seed", type=int, default=0, help="another one gives other objects")
    parser.add_argument("--rate", type=float, help="requests a second, of the whole account")
    parser.add_argument("--endpoint-rate", type=float, help="requests a second, of each endpoint")
    parser.add_argument("--latency", type=float, default=0, help="seconds that an answer takes")
    parser.add_argument(
        "--default-version",
        help="the account's API version, which polled events are rendered in; else the latest",
    )
    for stream in SEEDED_STREAMS:
        parser.add_argument(
            f"--{stream.replace('_', '-')}", type=int, default=0, metavar="N", dest=stream
        )
    parser.add_argument(
        "--history",
        type=_history,
        action="append",
        default=[],
        metavar="STREAM=SHAPE:N",
        dest="histories",
        help=f"N objects over the ten years until now, spread as one of {', '.join(SHAPES)}",
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(parser.parse_args()))


def _history(text: str) -> History:
    try:
        return History.parse(text)
    except ValueError as error:
        # The only exception whose message argparse shows.
        raise argparse.ArgumentTypeError(str(error)) from None


async def _serve(options: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    plan = SeedPlan(
        counts={stream: getattr(options, stream) for stream in SEEDED_STREAMS}, seed=options.seed
    )
    simulator = StripeSimulator(
        plan,
        api_key=options.api_key,
        account_id=options.account_id,
        rate_limits=RateLimits(per_second=options.rate, per_endpoint=options.endpoint_rate),
        host=options.host,
        port=options.port,
    )
    if options.default_version:
        simulator.set_default_version(options.default_version)
    for history in options.histories:
        objects = simulator.objects(history.stream)
        for object_id, created, body in history.objects(until=int(time.time())):
            objects.put_encoded(object_id, created, body)
    if options.latency:
        simulator.faults.add(faults.latency(options.latency), times=None)
    async with simulator:
        sys.stdout.write(f"{simulator.base_url}\n")
        sys.stdout.flush()
        await stopped.wait()


if __name__ == "__main__":
    main()
