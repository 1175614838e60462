"""A process that sets up and tears down ten streams, driven by lines on its input."""

import asyncio
import json
import sys

from engine_server.connectors.postgres.config import PostgresConfig
from tests.engine_server.connectors.postgres.builders import stream
from tests.engine_server.connectors.postgres.schemas import set_up, tear_down

STREAMS = [stream(f"stream_{number}") for number in range(10)]
ACTS = {"setup": set_up, "teardown": tear_down}


def main() -> None:
    """Print "ready", and then the logged sentences of each input line as JSON."""
    config = PostgresConfig.model_validate({"url": sys.argv[1]})
    print("ready", flush=True)  # noqa: T201 - the output is the protocol
    for line in sys.stdin:
        sentences = asyncio.run(ACTS[line.strip()](config, *STREAMS))
        print(json.dumps(sentences), flush=True)  # noqa: T201 - the same


if __name__ == "__main__":
    main()
