"""External text, made safe for messages, logs, headers and terminals."""

import re
import unicodedata

from pipesync_rpc.redaction import redact

# Words of letters, each followed by up to two digits. Keys, passwords and URLs look different.
_NAME = re.compile(r"_?[A-Za-z]{1,30}[0-9]{0,2}(?:[_.-][A-Za-z]{1,30}[0-9]{0,2})*", re.ASCII)
_MAX_NAME_CHARACTERS = 64

# Control and format characters (including C1 and text direction), lone surrogates, and line and
# paragraph separators.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def truncate(text: str, max_length: int) -> str:
    """Return the text, truncated with an ellipsis to ``max_length`` characters."""
    return text if len(text) <= max_length else text[: max_length - 1] + "…"


def sanitize(text: str, max_length: int) -> str:
    """Return the text, truncated as by ``truncate``, as valid UTF-8 without NUL.

    NUL and lone surrogates, which Postgres and protobuf refuse, become escapes.
    """
    text = truncate(text, max_length).replace("\0", "\\0")
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def escape_controls(text: str) -> str:
    r"""Return the text on one line, with every character that controls a terminal escaped.

    ESC becomes ``\x1b``, and a line break ``\n``.
    """
    return text if text.isprintable() else "".join(map(_seen, text))


def _seen(character: str) -> str:
    if unicodedata.category(character) not in _UNSEEN:
        return character
    return character.encode("unicode_escape").decode("ascii")


def is_plain_name(text: str) -> bool:
    """Return whether a caller's text is a plain name that a message may repeat.

    Other text may be a secret in the wrong field.
    """
    is_plain = len(text) <= _MAX_NAME_CHARACTERS and _NAME.fullmatch(text) is not None
    return is_plain and redact(text) == text


def quote_name(kind: str, text: str) -> str:
    """Return ``kind 'text'``, or ``such kind`` for text that is no plain name."""
    return f"{kind} {text!r}" if is_plain_name(text) else f"such {kind}"
