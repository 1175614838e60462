"""What Stripe answers when it does not answer with data."""

import re
from collections.abc import Collection

from engine_server.errors import ConnectorError

# What Stripe says when the account, not the request, is at fault: a product that was never enabled,
# or an endpoint of the other mode. The wordings are few, and the tests have the source of each: one
# that is not known ends in an error that somebody sees, not in a skipped stream.
_UNAVAILABLE = re.compile(
    r"\bnot (?:set ?up to use|authorized to|enabled for|eligible for)\b"
    r"|(?:\bnot|n't) available in (?:test|live) ?mode"
    r"|\bonly available in (?:test|live) ?mode"
    r"|\bhave you onboarded to\b"
    # The URL as the stripe package has it: this account, or this API version, does not have the
    # endpoint. One that was put together wrongly lacks an id at its end, or has something before
    # its version, such as another version that stood in base_url.
    r"|\bunrecognized request URL \(GET: /v[12]/(?!v[12]/)[^)]*[^/)]\)",
    re.IGNORECASE,
)
# The same as code or type, which v2 has for it (https://docs.stripe.com/api/v2/core/accounts/list).
_UNAVAILABLE_CODES = frozenset(
    {
        "accounts_v2_access_blocked",
        "non_connect_platform_accounts_v2_access_blocked",
        "capability_not_enabled",
        "feature_not_enabled",
    }
)

# The list answers only when it is told whose objects to list. The tests have the source of each
# wording; "names" are the parameters that Stripe asks for.
_PARAMETER_MISSING = re.compile(
    r"\bmissing (?:an? |the )?(?:required )?(?:query )?param(?:eter)?s?\b(?P<names1>[^.]*)"
    r"|\b(?:must|need to|have to) (?:provide|specify|pass|supply|include)\b(?P<names2>[^.]*)"
    r"|(?P<names3>[^.]*)\b(?:must|should|needs? to|ha(?:s|ve) to) be "
    r"(?:provided|specified|passed|supplied|included)\b(?P<names4>[^.]*)"
    r"|(?P<names5>[^.]*)\b(?:is|are) (?:an? )?required param(?:eter)?s?\b"
    r"|(?P<names6>[^.]*)\bparam(?:eter)?s?\b[^.]* (?:is|are) required\b(?P<names7>[^.]*)",
    re.IGNORECASE,
)
_NAME = re.compile(r"\w+")

# What is said of one list, even with the status that otherwise says that the key is unknown.
_PERMISSION_MISSING = re.compile(r"does not have the required permissions for this endpoint")

# What a 403 says when no request with this key, from here, will do better.
_KEY_REFUSED = re.compile(r"requests from your IP address|does not have access to account")
# The same, but only of requests that name a connected account.
_PLATFORM_REFUSED = re.compile(
    r"only Stripe Connect platforms can work with other accounts"
    r"|does not have any Connect permissions"
    r"|connected accounts of your platform's connected accounts",
    re.IGNORECASE,
)


class RequestFailed(ConnectorError):
    """One request that Stripe refused, or that kept failing.

    Attributes:
        status: The HTTP status; None when no whole answer came.
        stripe_message: Stripe's own words; empty when what answered was not Stripe, but a proxy
            before it, say.
        stripe_code: Stripe's short name for what is wrong (https://docs.stripe.com/error-codes).
        stripe_type: Its broader name, e.g. ``invalid_request_error``.
        param: The parameter that Stripe complains about.
        sent: The names of the query's parameters, such as ``created[gte]``.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None,
        stripe_message: str = "",
        stripe_code: str = "",
        stripe_type: str = "",
        param: str = "",
        sent: Collection[str] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.stripe_message = stripe_message
        self.stripe_code = stripe_code
        self.stripe_type = stripe_type
        self.param = param
        self.sent = sent

    def concerns_every_request(self, *, connected: bool) -> bool:
        """Whether the key itself is refused: no list can be read with it.

        Args:
            connected: Whether the request named a connected account.
        """
        if self.stripe_code == "account_invalid":
            return True
        if self.status == 401:
            return _PERMISSION_MISSING.search(self.stripe_message) is None
        if self.status == 403 and _KEY_REFUSED.search(self.stripe_message):
            return True
        return connected and (
            self.stripe_code == "platform_account_required"
            or _PLATFORM_REFUSED.search(self.stripe_message) is not None
        )

    @property
    def is_unavailable(self) -> bool:
        """Whether the account or the key may not read this: to be skipped, not to fail.

        A proxy's 403 says nothing about the account, and an answer that names a parameter is about
        what was asked.
        """
        if self.status in (401, 403):
            return bool(self.stripe_message)
        if self.status not in (400, 404) or self.param:
            return False
        return (
            not _UNAVAILABLE_CODES.isdisjoint({self.stripe_code, self.stripe_type})
            or _UNAVAILABLE.search(self.stripe_message) is not None
        )

    @property
    def lacks_parameter(self) -> bool:
        """Whether the list answers only when it is sent a parameter that was not sent.

        A complaint about a parameter that was sent is about its value.
        """
        found = _PARAMETER_MISSING.search(self.stripe_message)
        is_said = self.stripe_code == "parameter_missing" or found is not None
        if self.status != 400 or not self.stripe_message or not is_said:
            return False
        said = " ".join(filter(None, found.groups())) if found else ""
        named = [self.param] if self.param else _NAME.findall(said)
        sent = {name.partition("[")[0] for name in self.sent}
        return sent.isdisjoint(name.partition("[")[0] for name in named)

    @property
    def is_unlistable(self) -> bool:
        """Whether the list cannot be read as it is asked for: to be skipped, not to fail."""
        return self.is_unavailable or self.lacks_parameter

    @property
    def is_lost_cursor(self) -> bool:
        """Whether the object or token that the page should start after is no longer there."""
        return self.status in (400, 404) and self.param in ("starting_after", "page")
