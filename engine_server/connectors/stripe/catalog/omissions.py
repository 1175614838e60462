"""Lists of the installed ``stripe`` package that the catalog does not support, with the reason."""

from collections.abc import Collection, Mapping
from threading import Lock
from types import MappingProxyType

import structlog

_log = structlog.get_logger(__name__)


class UnknownForm(Exception):
    """The package has a form that the catalog does not support."""


class Omissions:
    """Collects the lists that the catalog leaves out because of an unsupported form.

    A new version of the package may contain any form, which must not make the other streams
    unreadable.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._reasons: dict[str, str] = {}
        self._streams: dict[str, str] = {}

    def add(self, place: str, reason: str | Exception, *, streams: Collection[str] = ()) -> None:
        """Add one omission, and log it unless the place is known.

        Args:
            place: The list's path, or the module that could not be read.
            reason: The reason in one sentence, or the exception that gives it.
            streams: The streams that may be missing because of it.
        """
        text = reason if isinstance(reason, str) else _sentence(reason)
        with self._lock:
            is_new = place not in self._reasons
            self._reasons.setdefault(place, text)
            for stream in streams:
                self._streams.setdefault(stream, text)
        if is_new:
            _log.warning("catalog_list_left_out", path=place, streams=[*streams], reason=text)

    @property
    def reasons(self) -> Mapping[str, str]:
        """The reason of each omission by place, in the order of discovery."""
        return MappingProxyType(self._reasons)

    @property
    def streams(self) -> Mapping[str, str]:
        """The reason of each missing stream by name; some of them may exist nevertheless."""
        return MappingProxyType(self._streams)


def _sentence(error: Exception) -> str:
    """Return an exception as one line with its type, for a log."""
    text = " ".join(str(error).split())
    if isinstance(error, UnknownForm):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


OMISSIONS = Omissions()
