"""Log lines of the servers while they are fuzzed."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import structlog

from pipesync_server.logging import quieten_libraries

# Characters of a line of the log: a traceback of our own code is the longest.
MOST_LINE = 30_000

# No fault of a server: an event that cannot be applied needs a person's attention.
_EXPECTED_ERRORS = frozenset({"event_dead_lettered", "event_given_up"})

# The thread of the simulator, whose own errors do not count.
SIMULATOR = "stripe"


class Heard:
    """Faults in the log lines since they were last taken."""

    def __init__(self) -> None:
        self._faults: list[str] = []
        self.lines = 0

    def take(self) -> list[str]:
        """Return the faults since the last call, and forget them."""
        found, self._faults = self._faults, []
        return found

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear every line logged in the body, in place of the processors configured before."""
        before = structlog.get_config()
        others = [
            one for one in before["processors"] if getattr(one, "__name__", "") == "_hear_event"
        ]
        structlog.configure(
            processors=[
                *others,
                structlog.contextvars.merge_contextvars,
                structlog.stdlib.add_log_level,
                structlog.processors.format_exc_info,
                self._hear,
            ],
            logger_factory=structlog.PrintLoggerFactory(),
            wrapper_class=structlog.make_filtering_bound_logger("debug"),
        )
        quieten_libraries()
        ear = _Ear(self)
        logging.getLogger().addHandler(ear)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(ear)
            structlog.configure(**before)

    def note(self, level: str, line: str) -> None:
        """Examine one line, unless it is the simulator's."""
        if threading.current_thread().name == SIMULATOR:
            return
        self.lines += 1
        if level in ("error", "critical"):
            self._faults.append(f"it logs an {level}: {line[:6000]}")
        if len(line) > MOST_LINE:
            self._faults.append(f"it logs {len(line)} characters: {line[:300]}")

    def _hear(self, _: Any, __: str, event: structlog.typing.EventDict) -> Any:
        try:
            line = orjson.dumps(event, default=str).decode()
        except TypeError:
            line = repr(event)
        level = "info" if event.get("event") in _EXPECTED_ERRORS else str(event.get("level", ""))
        if event.get("event") == "rpc_finished" and event.get("code") in ("INTERNAL", "UNKNOWN"):
            level = "error"
        self.note(level, line)
        raise structlog.DropEvent


class _Ear(logging.Handler):
    def __init__(self, heard: Heard) -> None:
        super().__init__()
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        self._heard.note(record.levelname.lower(), line)
