"""How long Stripe takes to answer: smoothed, as a whole and for each endpoint."""

# Before the first answer: rather more than what a full page usually takes.
_ASSUMED = 0.3
# What a new measurement counts for, against all before it.
_WEIGHT = 0.2
# Several times the number of Stripe's lists. Whatever is asked beyond them is only part of the
# whole, so that no caller can make this grow without end.
_MOST_ENDPOINTS = 500


class Latency:
    """The moving averages of measured latencies, in seconds."""

    def __init__(self) -> None:
        self._overall: float | None = None
        self._endpoints: dict[str, float] = {}

    def measure(self, endpoint: str, seconds: float) -> None:
        """Takes in how long one whole answer took, from sending the request."""
        self._overall = _smoothed(self._overall, seconds)
        if endpoint in self._endpoints or len(self._endpoints) < _MOST_ENDPOINTS:
            self._endpoints[endpoint] = _smoothed(self._endpoints.get(endpoint), seconds)

    def of(self, endpoint: str | None = None) -> float:
        """What to expect of ``endpoint``, else of any; a cautious guess before the first answer."""
        overall = _ASSUMED if self._overall is None else self._overall
        return overall if endpoint is None else self._endpoints.get(endpoint, overall)


def _smoothed(average: float | None, seconds: float) -> float:
    return seconds if average is None else average + _WEIGHT * (seconds - average)
