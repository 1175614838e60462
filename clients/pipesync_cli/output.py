"""Results on stdout, everything else on stderr."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import yaml
from google.protobuf.message import Message as ProtobufMessage

from pipesync.v1.message_pb2 import Log, Message
from pipesync.v1.progress_pb2 import UnreadableStream
from pipesync_cli.plain import enum_to_plain, to_plain


def complain(sentence: str) -> None:
    """What went wrong, as one line on stderr."""
    note(f"Error: {' '.join(sentence.split())}")


def warn(sentence: str) -> None:
    """Something that a person should know, as one line on stderr."""
    note(f"Warning: {' '.join(sentence.split())}")


def note(line: str) -> None:
    """A line for a person, on stderr."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - a command line prints


def say(line: str) -> None:
    """A line of the result, on stdout."""
    print(line, flush=True)  # noqa: T201 - a command line prints


def say_json(message: ProtobufMessage) -> None:
    """A message as one line of JSON, with every field there."""
    say(json.dumps(to_plain(message, defaults=True), ensure_ascii=False))


def say_yaml(message: ProtobufMessage) -> None:
    """A message in the form that ``-f`` reads."""
    plain: Any = to_plain(message)
    say(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).rstrip())


def say_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows in columns as wide as they need be, under their heads."""
    lines = [heads, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def log_line(message: Message) -> str:
    """A connector's log as a line for a person."""
    log = message.log
    level = enum_to_plain(Log.Level.DESCRIPTOR, log.level)
    data = "".join(f" {key}={value}" for key, value in to_plain(log.data).items())
    return f"{level}: {message.emitted_by}: {log.message}{data}"


def unreadable_line(unreadable: UnreadableStream) -> str:
    """A stream that cannot be read, and why, as a line for a person."""
    return f"cannot read {unreadable.stream}: {' '.join(unreadable.reason.split())}"
