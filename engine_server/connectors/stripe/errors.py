"""What Stripe answers when it does not answer with data."""

import re

from engine_server.errors import ConnectorError

# What Stripe says when the account, not the request, is at fault: a product that was never enabled,
# or an endpoint of the other mode.
_UNAVAILABLE = re.compile(
    r"not enabled|not set ?up to use|not signed up|signed up for|not eligible|not available"
    r"|does not have access|do not have access|don't have access|must be enabled|must enable"
    r"|required permissions?|only available in|test ?mode|live ?mode|not supported for your",
    re.IGNORECASE,
)


class RequestFailed(ConnectorError):
    """One request that Stripe refused, or that kept failing.

    Attributes:
        status: The HTTP status; None when no whole answer came.
        stripe_message: Stripe's own words.
        param: The parameter that Stripe complains about.
    """

    def __init__(
        self, message: str, *, status: int | None, stripe_message: str = "", param: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.stripe_message = stripe_message
        self.param = param

    @property
    def is_unavailable(self) -> bool:
        """Whether the account or the key may not read this, ever: to be skipped, not to fail."""
        return self.status == 403 or (
            self.status == 400 and _UNAVAILABLE.search(self.stripe_message) is not None
        )

    @property
    def is_lost_cursor(self) -> bool:
        """Whether the object or token that the page should start after is no longer there."""
        return self.status in (400, 404) and self.param in ("starting_after", "page")
