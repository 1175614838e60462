"""Server of localstripe on a free loopback port; localstripe's own command binds to all interfaces.

It prints its URL.
"""

import asyncio
import sys

from aiohttp import web
from localstripe.server import app


async def serve() -> None:
    """Serve until the process is ended."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    sys.stdout.write(f"http://{host}:{port}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve())
