"""Moving averages of Stripe's latency, overall and per endpoint."""

# Latency in seconds before the first response: somewhat more than a full page usually takes.
_ASSUMED = 0.3
# Weight of a new measurement in the average.
_WEIGHT = 0.2
# Several times the number of Stripe's lists. Further endpoints count only towards the overall
# average, which bounds the memory.
_MOST_ENDPOINTS = 500


class Latency:
    """The moving averages of measured latencies, in seconds."""

    def __init__(self) -> None:
        self._overall: float | None = None
        self._endpoints: dict[str, float] = {}

    def measure(self, endpoint: str, seconds: float) -> None:
        """Add the time from sending a request to its complete response."""
        self._overall = _smoothed(self._overall, seconds)
        if endpoint in self._endpoints or len(self._endpoints) < _MOST_ENDPOINTS:
            self._endpoints[endpoint] = _smoothed(self._endpoints.get(endpoint), seconds)

    def of(self, endpoint: str | None = None) -> float:
        """Return the expected latency of ``endpoint``, else the overall one."""
        overall = _ASSUMED if self._overall is None else self._overall
        return overall if endpoint is None else self._endpoints.get(endpoint, overall)


def _smoothed(average: float | None, seconds: float) -> float:
    return seconds if average is None else average + _WEIGHT * (seconds - average)
