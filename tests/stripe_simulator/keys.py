"""API keys: those that are accepted, and the paths that each may read and write.

Rules: https://docs.stripe.com/keys and https://docs.stripe.com/keys/restricted-api-keys
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tests.stripe_simulator import errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An accepted key.

    Attributes:
        value: The key itself.
        may_read: Patterns of readable paths, such as ``/v1/issuing/*``; a secret key may read all.
        may_write: Patterns of writable paths.
    """

    value: str
    may_read: Sequence[str] = ("*",)
    may_write: Sequence[str] = ("*",)

    def require(self, path: str, account_id: str, *, write: bool = False) -> None:
        """Refuse a request for which the key lacks the permission.

        Raises:
            Refusal: 403, naming the permission that is missing.
        """
        patterns = self.may_write if write else self.may_read
        if not any(fnmatchcase(path, pattern) for pattern in patterns):
            raise errors.permission_missing(
                self.value, account_id, path, "write" if write else "read"
            )


class Keys:
    """The accepted and the expired keys."""

    def __init__(self, secret_key: str) -> None:
        self._keys = {secret_key: Key(value=secret_key)}
        self._expired: set[str] = set()

    def restrict(self, key: str, may_read: Sequence[str], may_write: Sequence[str]) -> None:
        """Accept a restricted key, or change its permissions."""
        self._keys[key] = Key(value=key, may_read=tuple(may_read), may_write=tuple(may_write))

    def expire(self, key: str) -> None:
        """Stop accepting a key."""
        self._expired.add(key)

    def authenticate(self, authorization: str) -> Key:
        """Return the key of a request, from its ``Authorization`` header.

        Raises:
            Refusal: 401; the key is missing, unknown or expired.
        """
        scheme, _, credentials = authorization.partition(" ")
        match scheme.lower():
            case "bearer":
                key = credentials.strip()
            case "basic":
                key = _basic_user(credentials)
            case _:
                raise errors.missing_key()
        if key in self._expired:
            raise errors.expired_key(key)
        if key not in self._keys:
            raise errors.unknown_key(key)
        return self._keys[key]


def _basic_user(credentials: str) -> str:
    """Return the user name of HTTP basic auth, which Stripe accepts as a key (``curl -u key:``)."""
    try:
        return base64.b64decode(credentials).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        raise errors.missing_key() from None
