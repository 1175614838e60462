"""What Stripe answers when it does not answer with data."""

import re
from collections.abc import Collection
from enum import Enum, auto

from engine_server.errors import ConnectorError

# What Stripe says when the account, not the request, is at fault: a product that was never enabled,
# or an endpoint of the other mode. The wordings are few, and the tests have the source of each: an
# unknown one ends in an error, not in a skipped stream.
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
_PARAMETER = r"(?:param(?:eter)?|field|argument|filter)s?"
_PARAMETER_MISSING = re.compile(
    rf"\bmissing (?:an? |the )?(?:required )?(?:query )?{_PARAMETER}\b(?P<names1>[^.]*)"
    r"|\b(?:must|needs? to|ha(?:s|ve) to) (?:provide|specify|pass|supply|include|set)\b"
    r"(?P<names2>[^.]*)"
    r"|(?P<names3>[^.]*)\b(?:must|should|needs? to|ha(?:s|ve) to) be "
    r"(?:provided|specified|passed|supplied|included|set|given)\b(?P<names4>[^.]*)"
    rf"|(?P<names5>[^.]*)\b(?:is|are) (?:an? )?required {_PARAMETER}\b"
    r"|(?P<names6>[^.]*)\b(?:is|are) required\b(?P<names7>[^.]*)"
    rf"|(?P<names8>[^.]*)\b{_PARAMETER}\b(?P<names9>[^.]*)\bmissing\b(?P<names10>[^.]*)"
    rf"|\brequires? (?:one of|either|at least|(?=[^.]*\b{_PARAMETER}\b))(?P<names11>[^.]*)",
    re.IGNORECASE,
)
# Longer messages are not looked at to their end: the time that the forms take grows faster.
_MOST_CHARACTERS = 500
# Words of sentences that are about the request as a whole, in the forms above.
_OF_ANY_REQUEST = frozenset({"version", "header", "key", "keys", "authorization", "authentication"})
_NAME = re.compile(r"\w+")

# What is said of one list, even with the status that otherwise says that the key is unknown.
_PERMISSION_MISSING = re.compile(r"does not have the required permissions for this endpoint")

# What a 403 says when no request with this key, from here, will do better.
_KEY_REFUSED = re.compile(r"requests from your IP address")
# The key has no access to an account: the one that is read, or one that a single object belongs to.
_ACCOUNT_REFUSED_CODE = "account_invalid"
_ACCOUNT_REFUSED = re.compile(r"does not have access to account(?: '(?P<account>acct_\w+)')?")
# There is no such object, in v1 and v2 (https://docs.stripe.com/error-codes,
# https://docs.stripe.com/api/v2/errors).
_GONE_CODES = frozenset({"resource_missing", "not_found"})
# There is none in the mode of the key, but one in the other: it is the key that is wrong
# (https://github.com/payolapayments/payola/issues/278).
_OF_OTHER_MODE = re.compile(r"a similar object exists in (?:live|test) mode")

# Names the object that was asked for, in a sentence that would otherwise be about all of its type:
# "This customer is not enabled for cash balances." Its own id does, too.
_OBJECT_NAMED = re.compile(
    r"\bthis (?!(?:account|api|application|business|endpoint|feature|integration|key|merchant|mode"
    r"|platform|product|request|url|version)\b)\w+",
    re.IGNORECASE,
)
# The same, but only of requests that name a connected account.
_PLATFORM_REFUSED = re.compile(
    r"only Stripe Connect platforms can work with other accounts"
    r"|does not have any Connect permissions"
    r"|connected accounts of your platform's connected accounts",
    re.IGNORECASE,
)


# Statuses that say nothing against a request: it was too early, too much, in another one's way, or
# met something broken behind Stripe (https://docs.stripe.com/api/errors, HTTP status code summary).
_PASSING = frozenset({408, 409, 424, 425, 429})


class FailureScope(Enum):
    """How much a failed request says, and so what it stops."""

    KEY = auto()
    """The key, or the account that is read, is refused: nothing can be read."""
    STREAM = auto()
    """The key or the account may not read objects of this type: their stream is skipped."""
    OBJECT = auto()
    """What was asked for is refused, and the same request will be again: one object, say."""
    STRIPE = auto()
    """Stripe, or the way to it, fails: the same request may succeed later."""


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
        about_object: Whether the request was about one object, by its id, and not about a list.
        object_id: The id of that object; empty when it is not known.
        account: The account whose data the request was for, as far as the configuration names it.
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
        about_object: bool = False,
        object_id: str = "",
        account: str | None = None,
        is_connected: bool = False,
        is_passing: bool = False,
    ) -> None:
        """Takes what is known of the answer.

        Args:
            message: What people are shown.
            status: As the attribute, like those that follow unless described here.
            stripe_message: As the attribute.
            stripe_code: As the attribute.
            stripe_type: As the attribute.
            param: As the attribute.
            sent: As the attribute.
            about_object: As the attribute.
            object_id: As the attribute.
            account: As the attribute.
            is_connected: Whether the request named a connected account.
            is_passing: Whether another attempt would have been worth it.
        """
        super().__init__(message)
        self.status = status
        self.stripe_message = stripe_message
        self.stripe_code = stripe_code
        self.stripe_type = stripe_type
        self.param = param
        self.sent = sent
        self.about_object = about_object
        self.object_id = object_id
        self.account = account
        self._is_connected = is_connected
        self._is_passing = is_passing

    @property
    def scope(self) -> FailureScope:
        """What the failure is about; the one place where that is decided."""
        if self._refuses_key():
            return FailureScope.KEY
        if self._passes():
            return FailureScope.STRIPE
        return FailureScope.STREAM if self._refuses_type() else FailureScope.OBJECT

    @property
    def shows_gone(self) -> bool:
        """Whether Stripe itself, and nothing between, says that there is no such object."""
        return (
            self.status == 404
            and self.stripe_code in _GONE_CODES
            and _OF_OTHER_MODE.search(self.stripe_message) is None
        )

    def shows_disconnected(self, account_id: str) -> bool:
        """Whether the request was refused as this account is connected to the key's no more."""
        if self.status != 403 or not self._refuses_account():
            return False
        return self.scope is FailureScope.OBJECT and self._refused_account in (None, account_id)

    def _refuses_key(self) -> bool:
        if self._refuses_account():
            return not self._is_about_another_account()
        if self.status == 401:
            return _PERMISSION_MISSING.search(self.stripe_message) is None
        if self.status == 403 and _KEY_REFUSED.search(self.stripe_message):
            return True
        return self._is_connected and self._refuses_platform()

    def _refuses_account(self) -> bool:
        return self.stripe_code == _ACCOUNT_REFUSED_CODE or (
            self.status == 403 and _ACCOUNT_REFUSED.search(self.stripe_message) is not None
        )

    @property
    def _refused_account(self) -> str | None:
        """The account that Stripe names as refused; None when it names none."""
        found = _ACCOUNT_REFUSED.search(self.stripe_message)
        return found["account"] if found else None

    def _is_about_another_account(self) -> bool:
        """Whether a refused account is not the one that is read."""
        if not self.about_object:
            return False
        named = self._refused_account
        return named != self.account if named is not None else not self._is_connected

    def _refuses_platform(self) -> bool:
        return (
            self.stripe_code == "platform_account_required"
            or _PLATFORM_REFUSED.search(self.stripe_message) is not None
        )

    def _passes(self) -> bool:
        if self._is_passing or self.status is None:
            return True
        if self.status >= 500 or self.status in _PASSING:
            return True
        # A proxy's page, say: Stripe gives its reasons.
        return self.status >= 300 and not (
            self.stripe_message or self.stripe_code or self.stripe_type
        )

    def _refuses_type(self) -> bool:
        if not self.about_object and self.lacks_parameter:
            return True
        if not self.is_unavailable:
            return False
        if not self.about_object:
            return True
        # Of one object, only these words are about all of its type.
        return (
            _PERMISSION_MISSING.search(self.stripe_message) is not None
            or not _UNAVAILABLE_CODES.isdisjoint({self.stripe_code, self.stripe_type})
            or self._refuses_platform()
            or (_UNAVAILABLE.search(self.stripe_message) is not None and not self._names_object())
        )

    def _names_object(self) -> bool:
        """Whether Stripe's words are about the very object that was asked for.

        An "unrecognized request URL" quotes its id, and is about the path.
        """
        words = self.stripe_message.partition("(GET: ")[0]
        is_named = bool(self.object_id) and re.search(
            rf"(?<!\w){re.escape(self.object_id)}(?!\w)", words
        )
        return bool(is_named) or _OBJECT_NAMED.search(words) is not None

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
        found = _PARAMETER_MISSING.search(self.stripe_message[:_MOST_CHARACTERS])
        is_said = self.stripe_code == "parameter_missing" or found is not None
        if self.status != 400 or not self.stripe_message or not is_said:
            return False
        said = " ".join(filter(None, found.groups())) if found else ""
        named = [self.param] if self.param else _NAME.findall(said)
        if not _OF_ANY_REQUEST.isdisjoint(name.lower() for name in named):
            return False
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
