"""A program with its modules loaded, which is forked for each of its starts.

Most of the time of a start goes into imports, which are made once here, for all tests of a process.
``python -m tests.warm_program MODULE SOCKET`` reads requests from the socket.
"""

import asyncio
import gc
import importlib
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from types import ModuleType
from typing import Any

_MOST_BYTES = 200_000
# Standard input, output and error of the program, and the pipe for its process id and exit code.
DESCRIPTORS = 4


def main() -> ModuleType | None:
    """Fork until the socket is closed; return the module to run in each fork, None in the end."""
    name, descriptor = sys.argv[1:]
    requests = socket.socket(fileno=int(descriptor))
    program = importlib.import_module(f"{name}.__main__")
    if name == "engine_server":
        asyncio.run(_load_connectors())
    gc.collect()
    gc.freeze()
    reports: dict[int, int] = {}

    def reap(*_: object) -> None:
        while reports:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            report = reports.pop(pid)
            # Its reader may have ended.
            with suppress(BrokenPipeError):
                os.write(report, f"{os.waitstatus_to_exitcode(status)}\n".encode())
            os.close(report)

    signal.signal(signal.SIGCHLD, reap)
    while True:
        data, descriptors, _, _ = socket.recv_fds(requests, _MOST_BYTES, DESCRIPTORS)
        if not data:
            return None
        *standard, report = descriptors
        # A child that ends at once is reaped only when its report is known.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            requests.close()
            for other in (report, *reports.values()):
                os.close(other)
            _become(program, standard, json.loads(data))
            return program
        for one in standard:
            os.close(one)
        os.write(report, f"{pid}\n".encode())
        reports[pid] = report
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


async def _load_connectors() -> None:
    """Load the connectors and their catalogs, as an engine does at its start."""
    from engine_server.connectors.registry import ConnectorRegistry
    from pipesync.v1.engine_service_pb2 import CONNECTOR_SIDE_UNSPECIFIED

    registry = ConnectorRegistry.installed()
    registry.describe_all(CONNECTOR_SIDE_UNSPECIFIED)
    async with registry.lifespan():
        pass


def _become(program: ModuleType, standard: list[int], request: Any) -> None:
    """Give this process the arguments, environment and directory of a start of its own."""
    for place, one in enumerate(standard):
        os.dup2(one, place)
        os.close(one)
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = [str(program.__file__), *request["arguments"]]
    # Programs name themselves by it in their help.
    sys.modules["__main__"] = program


if __name__ == "__main__":
    started = main()
    if started is not None:
        started.main()
