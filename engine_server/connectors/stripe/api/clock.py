"""Stripe's clock, estimated from responses, and its difference from the engine's clock."""

import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

import structlog

_log = structlog.get_logger(__name__)

# This many recent responses are compared, none older than this many seconds: a monotonic clock
# drifts, and stands still while a machine is suspended.
_MOST_ANSWERS = 16
_LONGEST_MEMORY = 3_600.0
# A greater difference between the two clocks, in seconds, is worth a warning.
NOTABLE_SKEW = 2.0
# More addresses than one process reads. Clocks without recent responses are dropped.
_MOST_CLOCKS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offset:
    """Bounds of the difference between Stripe's clock and the machine's monotonic one, in seconds.

    Attributes:
        low: The lower bound.
        high: The upper bound.
        received_at: When the response was received, by the monotonic clock.
    """

    low: float
    high: float
    received_at: float

    def holds(self, offset: float) -> bool:
        """Return whether the difference lies within the bounds."""
        return self.low <= offset <= self.high

    def encloses(self, other: "_Offset") -> bool:
        """Return whether these bounds contain the other ones."""
        return self.low <= other.low and other.high <= self.high


class ServerClock:
    """The clock of one API, estimated from the ``Date`` of its recent responses.

    A response bounds the difference to the monotonic clock on both sides, as ``Date`` is truncated
    to seconds and is set between sending and receiving. The estimate is the difference that most
    responses allow (https://en.wikipedia.org/wiki/Marzullo%27s_algorithm), and the earliest of
    several: a read time that is too early only repeats a read, and one that is too late loses
    changes.
    """

    def __init__(self) -> None:
        self._offsets: deque[_Offset] = deque(maxlen=_MOST_ANSWERS)
        self._agreed: _Offset | None = None
        self._is_majority = False
        self._has_warned_of_skew = False
        self._has_warned_of_silence = False

    @property
    def is_known(self) -> bool:
        """Whether recent responses give an estimate; otherwise the engine's own clock is used."""
        return self._current() is not None

    def observe(self, headers: Mapping[str, str], *, sent: float, received: float) -> None:
        """Update the estimate from the headers of a response.

        Args:
            headers: The headers of the response.
            sent: When the request was sent, by ``time.monotonic``.
            received: When the response was received.
        """
        offset = _offset(headers, sent, received)
        if offset is not None:
            self._offsets.append(offset)
            self._agree()
            self._warn_of_skew()

    def time_of_read(self, headers: Mapping[str, str], *, sent: float, received: float) -> int:
        """Return the last Unix second that was surely over when a response's data were read.

        Args: as in ``observe``, which must be called before.
        """
        age = _seconds_in_cache(headers)
        agreed = self._current()
        if agreed is None:
            self._warn_of_silence()
            return math.floor(time.time() - (received - sent)) - 1 - age
        date, offset = _date(headers), _offset(headers, sent, received)
        if date is not None and offset is not None and offset.encloses(agreed):
            # The floor of the sum below would depend on rounding.
            return date - math.ceil(received - sent) - 1
        return math.floor(sent + agreed.low) - 1 - age

    def earliest(self) -> float:
        """Return the earliest time that Stripe's clock may show now, in Unix seconds."""
        wall, agreed = time.time(), self._current()
        now = time.monotonic()
        if agreed is None or agreed.holds(wall - now):
            return wall
        return now + agreed.low

    def latest(self) -> float:
        """Return the latest time that Stripe's clock may show now, in Unix seconds.

        Like ``earliest``, this is the engine's clock unless responses contradict it.
        """
        wall, agreed = time.time(), self._current()
        now = time.monotonic()
        if agreed is None or agreed.holds(wall - now):
            return wall
        return now + agreed.high

    def second(self) -> int:
        """Return the Unix second that Stripe's clock shows, or the one after it."""
        return int(self.latest())

    def skew(self) -> float | None:
        """Return the seconds that the engine's clock is ahead of Stripe's; None if unknown.

        The result is exact to about half a second.
        """
        agreed = self._current()
        if agreed is None:
            return None
        return time.time() - time.monotonic() - (agreed.low + agreed.high) / 2

    def _current(self) -> _Offset | None:
        oldest = time.monotonic() - _LONGEST_MEMORY
        if self._offsets and self._offsets[0].received_at < oldest:
            while self._offsets and self._offsets[0].received_at < oldest:
                self._offsets.popleft()
            self._agree()
        return self._agreed

    def _agree(self) -> None:
        """Find the difference that most responses allow."""
        best: list[_Offset] = []
        for low in sorted(offset.low for offset in self._offsets):
            allowing = [offset for offset in self._offsets if offset.holds(low)]
            if len(allowing) > len(best):
                best = allowing
        self._is_majority = 2 * len(best) > len(self._offsets)
        self._agreed = None
        if best:
            self._agreed = _Offset(
                low=max(offset.low for offset in best),
                high=min(offset.high for offset in best),
                received_at=max(offset.received_at for offset in best),
            )

    def _warn_of_skew(self) -> None:
        skew = self.skew()
        if self._has_warned_of_skew or skew is None or not self._is_majority:
            return
        if abs(skew) > NOTABLE_SKEW:
            self._has_warned_of_skew = True
            _log.warning("stripe_clock_skew", seconds_ahead=round(skew, 1))

    def _warn_of_silence(self) -> None:
        if not self._has_warned_of_silence:
            self._has_warned_of_silence = True
            _log.warning(
                "stripe_clock_unknown",
                reason="no answer has a Date that counts, so the engine's own clock is used",
            )


class ServerClocks:
    """Clocks, one per API address."""

    def __init__(self) -> None:
        self._clocks: dict[str, ServerClock] = {}

    def of(self, base_url: str) -> ServerClock:
        """Return the clock of this address."""
        clock = self._clocks.get(base_url)
        if clock is None:
            if len(self._clocks) >= _MOST_CLOCKS:
                known = self._clocks.items()
                self._clocks = {url: clock for url, clock in known if clock.is_known}
            clock = self._clocks[base_url] = ServerClock()
        return clock


def unix_time(http_date: str) -> float | None:
    """Return the Unix time of an HTTP date; None if it is invalid."""
    try:
        moment = parsedate_to_datetime(http_date)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def skew_sentence(skew: float) -> str:
    """Return a sentence for the user about a skew in seconds."""
    side = "ahead of" if skew > 0 else "behind"
    return (
        f"The engine's clock is {abs(skew):.0f} s {side} Stripe's. Reads go by Stripe's clock; "
        "set the engine's, by which logs and deadlines go"
    )


def _offset(headers: Mapping[str, str], sent: float, received: float) -> _Offset | None:
    """Return the bounds that a response gives; None if it gives none.

    A cached response carries the time at which it was cached
    (https://www.rfc-editor.org/rfc/rfc9111#section-5.1).
    """
    date = _date(headers)
    if date is None or "Age" in headers:
        return None
    return _Offset(low=date - received, high=date + 1 - sent, received_at=received)


def _date(headers: Mapping[str, str]) -> int | None:
    moment = unix_time(headers.get("Date", ""))
    return None if moment is None else int(moment)


def _seconds_in_cache(headers: Mapping[str, str]) -> int:
    """Return the most seconds that a response may have been cached: more than ``Age`` says."""
    age = headers.get("Age", "").strip()
    return int(age) + 1 if age.isdecimal() and len(age) < 10 else 0
