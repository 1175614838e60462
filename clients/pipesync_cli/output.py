"""Output: results on stdout, everything else on stderr.

External text, such as names, database errors and logs, may hold terminal control characters. All
lines for people have them escaped.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

import yaml
from google.protobuf.message import Message as ProtobufMessage

from pipesync.v1.message_pb2 import Log, Message
from pipesync.v1.progress_pb2 import UnreadableStream
from pipesync_cli.plain import enum_to_plain, to_plain
from pipesync_rpc.display_text import escape_controls


def print_error(sentence: str) -> None:
    """Print an error as one line on stderr."""
    print_note(f"Error: {' '.join(sentence.split())}")


def print_warning(sentence: str) -> None:
    """Print a warning as one line on stderr."""
    print_note(f"Warning: {' '.join(sentence.split())}")


def print_note(line: str) -> None:
    """Print a line for a person on stderr."""
    print(escape_controls(line), file=sys.stderr, flush=True)  # noqa: T201 - a command line prints


def echo(line: str) -> None:
    """Print a line of the result on stdout."""
    _write(escape_controls(line))


def echo_json(message: ProtobufMessage) -> None:
    """Print a message as one line of JSON, with all fields."""
    plain: Any = to_plain(message, defaults=True)
    text = json.dumps(plain, ensure_ascii=False)
    # JSON escapes, so that the line is still the same JSON.
    _write(text if escape_controls(text) == text else json.dumps(plain).replace("\x7f", "\\u007f"))


def echo_yaml(message: ProtobufMessage) -> None:
    """Print a message as YAML that ``-f`` reads."""
    plain: Any = to_plain(message)
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    if any(escape_controls(line) != line for line in text.split("\n")):
        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=False)
    _write(text.rstrip())


def echo_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headings, in columns of the least width."""
    lines = [heads, *([escape_controls(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        echo(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


def _write(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a command line prints


def log_line(message: Message) -> str:
    """Return a connector's log as a line for a person."""
    log = message.log
    level = enum_to_plain(Log.Level.DESCRIPTOR, log.level)
    data = "".join(f" {key}={value}" for key, value in to_plain(log.data).items())
    return f"{level}: {message.emitted_by}: {log.message}{data}"


def unreadable_line(unreadable: UnreadableStream) -> str:
    """Return a line that names an unreadable stream, and the reason."""
    return f"cannot read {unreadable.stream}: {' '.join(unreadable.reason.split())}"
