"""Messages of Postgres without the row values that they quote.

A message quotes both names (of constraints, columns, tables, types, encodings, settings, roles) and
values. The SQLSTATE and the reporting routine tell them apart, in any language of the server.
"""

import re
from collections.abc import Collection

from pipesync_postgres import sqlstates

_WITHHELD = '"..."'
# Quotation marks of all languages of Postgres. The apostrophe is not among them.
_MARKS = '"«»‹›„“”‚‘「」『』'  # noqa: RUF001 - quotation marks are meant
_MARK = re.compile(f"[{_MARKS}]")
# In messages of user functions, an apostrophe inside a word is not a mark, either.
_OPENING = re.compile(rf"[{_MARKS}]|(?<!\w)'(?=\S)")
_CLOSING = re.compile(rf"[{_MARKS}]|(?<=\S)'(?!\w)")

# Whole rows, arrays and JSON in messages of user functions; only elements with blanks or
# punctuation are quoted. https://www.postgresql.org/docs/current/rowtypes.html#ROWTYPES-IO-SYNTAX
_ELEMENT = r'(?:"(?:[^"\\]|""|\\.)*"|[^\s(),"\\]*)'
_ROW = re.compile(rf"\(({_ELEMENT}(?:,{_ELEMENT})+)\)", re.DOTALL)
_BRACKET = re.compile(r"\{|\[(?=\s*[\[{\"])")

# Functions and hostile servers may send a megabyte, which takes a quarter of a second to search.
_MAX_SEARCHED = 65_536
# The beginning of such a message, up to any character that may introduce a value.
_BEGINNING = re.compile(rf"[^{_MARKS}'({{\[:]{{0,200}}")

# Data exceptions quote the invalid value.
_QUOTING_CLASS = "22"
# Exceptions that quote names: of encodings (22021, 22P05), and of a sequence (2200H).
_NAMING_STATES = frozenset({"22021", "22P05", "2200H"})
# The value follows a colon if the message, or its translation, quotes nothing.
_TRAILING_STATES = frozenset({"22007", "22008", "22023", "22030", "22P02"})
_TRAILING = re.compile(rf"([^{_MARKS}]*?: )\s*[^{_MARKS}\s]")
# Types such as tsquery report unreadable text as a syntax error, and quote it. So does the parser
# for a statement that a user function made from text.
_SYNTAX_ERROR = "42601"
_PARSER_ROUTINE = "scanner_yyerror"
# The name of the setting comes first; its value may follow.
_SETTING_ROUTINE = re.compile(r"parse_and_validate_value|set_config\w*|call_\w+_check_hook")
_FIRST_QUOTED = re.compile(rf"\A[^{_MARKS}]*[{_MARKS}][\w. ]+[{_MARKS}]")
# RAISE and ASSERT in PL/pgSQL.
_RAISING_ROUTINES = frozenset({"exec_stmt_raise", "exec_stmt_assert"})
# Exceptions of functions in other languages, with messages of their own.
_FOREIGN_CLASSES = frozenset({"38", "39"})

# https://www.postgresql.org/docs/current/multibyte.html#MULTIBYTE-CHARSET-SUPPORTED
_ENCODING = (
    r"BIG5|EUC_\w+|GB18030|GBK|ISO_8859_\d|JOHAB|KOI8[RU]|LATIN\d+|MULE_INTERNAL|SJIS"
    r"|SHIFT_JIS_2004|SQL_ASCII|UHC|UTF8|WIN\d+"
)


def without_values(
    message: str,
    *,
    sqlstate: str,
    routine: str | None = None,
    in_function: bool = False,
    names: Collection[str] = (),
) -> str:
    """Return a message without the values that it quotes.

    Of a message over 65,536 characters, only the beginning is kept.

    Args:
        message: The primary message, in any language.
        sqlstate: Its SQLSTATE.
        routine: The function of Postgres's source code that reported it (field R).
        in_function: Whether a user function was running.
        names: Known names, e.g. those in the report's other fields. They are kept in messages of
            user functions.
    """
    if len(message) > _MAX_SEARCHED:
        beginning = _BEGINNING.match(message)
        return (beginning[0] if beginning is not None else "") + _WITHHELD
    if _is_of_user(sqlstate, routine):
        plain = _without_brackets(_ROW.sub(lambda row: _without_row(row, names), message))
        return _withheld(plain, _OPENING, _CLOSING, kept=_quoted(names))
    if sqlstate in _NAMING_STATES:
        return message
    if sqlstate.startswith(_QUOTING_CLASS):
        is_of_setting = routine is not None and _SETTING_ROUTINE.fullmatch(routine)
        if sqlstate in _TRAILING_STATES and (unquoted := _TRAILING.match(message)):
            return unquoted[1] + _WITHHELD
        return _withheld(message, _MARK, _MARK, kept=_FIRST_QUOTED if is_of_setting else None)
    if sqlstate == _SYNTAX_ERROR and (in_function or routine != _PARSER_ROUTINE):
        return _withheld(message, _MARK, _MARK)
    return message


def _is_of_user(sqlstate: str, routine: str | None) -> bool:
    """Return whether a user function wrote the message."""
    return (
        routine in _RAISING_ROUTINES
        or sqlstate[:2] in _FOREIGN_CLASSES
        or not sqlstates.is_known(sqlstate)
    )


def _without_row(row: re.Match[str], names: Collection[str]) -> str:
    """Return a list of names unchanged, and a row without its values."""
    return row[0] if {*row[1].split(",")} <= {*names} else "(...)"


def _without_brackets(message: str) -> str:
    """Withhold everything from the first bracket of an array or of JSON to the last one."""
    first = _BRACKET.search(message)
    end = max(message.rfind("}"), message.rfind("]"))
    if first is None or end < first.start():
        return message
    return f"{message[: first.start()]}{{...}}{message[end + 1 :]}"


def _quoted(names: Collection[str]) -> re.Pattern[str]:
    # The longest first, so that no name hides a longer one that it begins.
    escaped = [re.escape(name) for name in sorted(names, key=len, reverse=True) if name]
    return re.compile(rf"[{_MARKS}']\s?(?:{'|'.join([*escaped, _ENCODING])})\s?[{_MARKS}']")


def _withheld(
    message: str,
    opening: re.Pattern[str],
    closing: re.Pattern[str],
    kept: re.Pattern[str] | None = None,
) -> str:
    """Withhold everything from the first mark to the last, since a value may contain marks."""
    masked = message
    if kept is not None:
        masked = kept.sub(lambda found: "\0" * len(found[0]), message)
    first = opening.search(masked)
    if first is None:
        return message
    last = first.end()
    for found in closing.finditer(masked, last):
        last = found.end()
    if last == first.end():
        # A single mark quotes nothing, unless the message was truncated.
        return message[: first.start()] + _WITHHELD if first[0] != "'" else message
    return message[: first.start()] + _WITHHELD + message[last:]
