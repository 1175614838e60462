"""A process that sets up and tears down ten streams whenever a line on its input says so."""

import asyncio
import json
import sys

from engine_server.connectors.postgres.config import PostgresConfig
from tests.engine_server.connectors.postgres.builders import stream
from tests.engine_server.connectors.postgres.schemas import set_up, tear_down

STREAMS = [stream(f"stream_{number}") for number in range(10)]
ACTS = {"setup": set_up, "teardown": tear_down}


def main() -> None:
    """Answers "ready", and then each line with the sentences that were logged, as JSON."""
    config = PostgresConfig.model_validate({"url": sys.argv[1]})
    print("ready", flush=True)  # noqa: T201 - its output is its answer
    for line in sys.stdin:
        sentences = asyncio.run(ACTS[line.strip()](config, *STREAMS))
        print(json.dumps(sentences), flush=True)  # noqa: T201 - the same


if __name__ == "__main__":
    main()
