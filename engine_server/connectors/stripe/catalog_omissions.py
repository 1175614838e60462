"""The lists of the installed ``stripe`` package that the catalog could not understand, and why."""

from collections.abc import Collection, Mapping
from threading import Lock
from types import MappingProxyType

import structlog

log = structlog.get_logger()


class UnknownForm(Exception):
    """The package states something in a form that the catalog does not understand."""


class Omissions:
    """Collects what the catalog leaves out because this package has it in a form unknown here.

    A new version of the package may bring any form: none of them may keep the other streams from
    being read.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._reasons: dict[str, str] = {}
        self._streams: dict[str, str] = {}

    def add(self, place: str, reason: str | Exception, *, streams: Collection[str] = ()) -> None:
        """Notes one omission, and logs it unless the same place was noted before.

        Args:
            place: The list's path, or the module that could not be read.
            reason: Why, in one sentence, or the exception that says so.
            streams: Those that may be missing for it.
        """
        text = reason if isinstance(reason, str) else _sentence(reason)
        with self._lock:
            is_new = place not in self._reasons
            self._reasons.setdefault(place, text)
            for stream in streams:
                self._streams.setdefault(stream, text)
        if is_new:
            log.warning("catalog_list_left_out", path=place, streams=[*streams], reason=text)

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why each place was left out, by place, in the order in which they were met."""
        return MappingProxyType(self._reasons)

    @property
    def streams(self) -> Mapping[str, str]:
        """Why each stream was left out that is missing, by name; some may be there all the same."""
        return MappingProxyType(self._streams)


def _sentence(error: Exception) -> str:
    """An exception as the reason of a log line: one line, with the kind of the error."""
    text = " ".join(str(error).split())
    if isinstance(error, UnknownForm):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


OMISSIONS = Omissions()
