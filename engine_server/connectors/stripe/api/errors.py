"""Failed requests, classified by their scope."""

import re
from collections.abc import Collection
from enum import Enum, auto

from engine_server.errors import ConnectorError

# Messages that blame the account and not the request: a product that was never enabled, or an
# endpoint of the other mode. There are few wordings, and the tests have the source of each. An
# unknown one ends in an error, not in a skipped stream.
_UNAVAILABLE = re.compile(
    r"\bnot (?:set ?up to use|authorized to|enabled for|eligible for)\b"
    r"|(?:\bnot|n't) available in (?:test|live) ?mode"
    r"|\bonly available in (?:test|live) ?mode"
    r"|\bhave you onboarded to\b"
    # The URL as the stripe package has it: this account, or this API version, lacks the endpoint. A
    # URL that was built wrongly has no id at its end, or something before its version, such as
    # another version in base_url.
    r"|\bunrecognized request URL \(GET: /v[12]/(?!v[12]/)[^)]{0,1000}[^/)]\)",
    re.IGNORECASE,
)
# The same as code or type in v2 (https://docs.stripe.com/api/v2/core/accounts/list).
_UNAVAILABLE_CODES = frozenset(
    {
        "accounts_v2_access_blocked",
        "non_connect_platform_accounts_v2_access_blocked",
        "capability_not_enabled",
        "feature_not_enabled",
    }
)

# Messages of lists that require a parameter naming the owner of their objects. The tests have the
# source of each wording; the "names" groups hold the parameters that Stripe asks for.
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
# Longer messages are truncated: the time to match these patterns grows faster than linearly.
_MOST_CHARACTERS = 500
# Words that show, in the patterns above, that the sentence is about the request as a whole.
_OF_ANY_REQUEST = frozenset({"version", "header", "key", "keys", "authorization", "authentication"})
_NAME = re.compile(r"\w+")

# Refers to one list, even with the status that otherwise means an unknown key.
_PERMISSION_MISSING = re.compile(r"does not have the required permissions for this endpoint")

# A 403 with this message will meet every request with this key from this address.
_KEY_REFUSED = re.compile(r"requests from your IP address")
# The key has no access to an account: the one being read, or the owner of a single object.
_ACCOUNT_REFUSED_CODE = "account_invalid"
_ACCOUNT_REFUSED = re.compile(r"does not have access to account(?: '(?P<account>acct_\w+)')?")
# The object does not exist, in v1 and v2 (https://docs.stripe.com/error-codes,
# https://docs.stripe.com/api/v2/errors).
_DELETED_CODES = frozenset({"resource_missing", "not_found"})
# The object exists only in the other mode, so the key is wrong
# (https://github.com/payolapayments/payola/issues/278).
_OF_OTHER_MODE = re.compile(r"a similar object exists in (?:live|test) mode")

# Any other 4xx for a request of one object is about that object, even from a proxy, which may
# reject the path of an unusual id. These statuses are about the caller.
_ABOUT_THE_CALLER = frozenset({401, 403, 407})

# Names the requested object in a sentence that would otherwise be about its whole type: "This
# customer is not enabled for cash balances." The object's id does so, too.
_OBJECT_NAMED = re.compile(
    r"\bthis (?!(?:account|api|application|business|endpoint|feature|integration|key|merchant|mode"
    r"|platform|product|request|url|version)\b)\w+",
    re.IGNORECASE,
)
# The same for requests that name a connected account.
_PLATFORM_REFUSED = re.compile(
    r"only Stripe Connect platforms can work with other accounts"
    r"|does not have any Connect permissions"
    r"|connected accounts of your platform's connected accounts",
    re.IGNORECASE,
)


# Statuses of requests that may succeed later: sent too early, too often, in conflict with another
# one, or failed behind Stripe (https://docs.stripe.com/api/errors, HTTP status code summary).
_PASSING = frozenset({408, 409, 424, 425, 429})


class FailureScope(Enum):
    """The scope of a failed request, which decides how much stops."""

    KEY = auto()
    """The key or the account is refused: nothing can be read."""
    STREAM = auto()
    """The key or the account may not read this type of object: its stream is skipped."""
    OBJECT = auto()
    """The request is refused and will be again, for example for one object."""
    STRIPE = auto()
    """Stripe or the network fails: the same request may succeed later."""


class RequestFailed(ConnectorError):
    """A request that Stripe refused, or that kept failing.

    Attributes:
        status: The HTTP status; None without a complete response.
        stripe_message: Stripe's message; empty if the response is not from Stripe, but for example
            from a proxy.
        stripe_code: Stripe's error code (https://docs.stripe.com/error-codes).
        stripe_type: Stripe's error type, e.g. ``invalid_request_error``.
        param: The parameter that Stripe rejects.
        sent: The names of the query's parameters, such as ``created[gte]``.
        about_object: Whether the request was for one object by its id, and not for a list.
        object_id: The id of that object; empty if unknown.
        account: The account of the requested data, if the configuration names it.
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
        """Store the facts about the response.

        Args:
            message: The message for the user.
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
            is_passing: Whether another attempt might have succeeded.
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
        """The scope of the failure; decided here only."""
        if self._refuses_key():
            return FailureScope.KEY
        if self._passes():
            return FailureScope.STRIPE
        return FailureScope.STREAM if self._refuses_type() else FailureScope.OBJECT

    @property
    def shows_deleted(self) -> bool:
        """Whether Stripe itself, and no proxy, says that the object does not exist."""
        return (
            self.status == 404
            and self.stripe_code in _DELETED_CODES
            and _OF_OTHER_MODE.search(self.stripe_message) is None
        )

    def shows_disconnected(self, account_id: str) -> bool:
        """Return whether the refusal means that this account is no longer connected."""
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
        """The account that Stripe names as refused; None if it names none."""
        found = _ACCOUNT_REFUSED.search(self.stripe_message)
        return found["account"] if found else None

    def _is_about_another_account(self) -> bool:
        """Return whether the refused account is not the one being read."""
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
        if self.about_object and 400 <= self.status < 500 and self.status not in _ABOUT_THE_CALLER:
            return False
        # Without a reason the response is not Stripe's but, for example, a proxy's page.
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
        # For a single object, only these responses concern its whole type.
        return (
            _PERMISSION_MISSING.search(self.stripe_message) is not None
            or not _UNAVAILABLE_CODES.isdisjoint({self.stripe_code, self.stripe_type})
            or self._refuses_platform()
            or (_UNAVAILABLE.search(self.stripe_message) is not None and not self._names_object())
        )

    def _names_object(self) -> bool:
        """Return whether Stripe's message names the requested object.

        An "unrecognized request URL" quotes its id, and is about the path.
        """
        words = self.stripe_message.partition("(GET: ")[0]
        is_named = bool(self.object_id) and re.search(
            rf"(?<!\w){re.escape(self.object_id)}(?!\w)", words
        )
        return bool(is_named) or _OBJECT_NAMED.search(words) is not None

    @property
    def is_unavailable(self) -> bool:
        """Whether the account or the key may not read this, so that it is skipped.

        A proxy's 403 says nothing about the account, and a response that names a parameter is about
        the request.
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
        """Whether the list requires a parameter that was not sent.

        A message about a parameter that was sent is about its value.
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
        """Whether the list cannot be read with these parameters, so that it is skipped."""
        return self.is_unavailable or self.lacks_parameter

    @property
    def is_lost_cursor(self) -> bool:
        """Whether the object or token that the page should start after no longer exists."""
        return self.status in (400, 404) and self.param in ("starting_after", "page")
