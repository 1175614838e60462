"""Bearer tokens: a server keeps their hashes only."""

import hashlib
import hmac
from collections.abc import Iterable

from google.rpc import code_pb2

from pipesync_rpc.errors import RpcError
from pipesync_rpc.reasons import Reason

AUTHORIZATION_KEY = "authorization"
_SCHEME = "bearer "


class Unauthenticated(RpcError):
    """The caller must show a token that the server knows."""

    default_code = code_pb2.UNAUTHENTICATED
    default_reason = Reason.UNAUTHENTICATED


def hash_token(token: str) -> str:
    """What a server stores of a token: the SHA-256 of its UTF-8 bytes, in hexadecimal."""
    return hashlib.sha256(token.encode()).hexdigest()


class TokenCheck:
    """Lets in whoever shows one of the tokens."""

    def __init__(self, token_hashes: Iterable[str]) -> None:
        """Takes the tokens as ``hash_token`` gives them; none at all lets everybody in."""
        self._hashes = tuple(token_hash.lower().encode() for token_hash in token_hashes)

    def admit(self, authorization: str) -> None:
        """Returns when the call may go on.

        Args:
            authorization: The metadata value, e.g. ``Bearer abc``; empty when there is none.

        Raises:
            Unauthenticated: the token is missing or unknown.
        """
        if not self._hashes:
            return
        if not authorization:
            raise Unauthenticated("this server asks for a token, and the call has none")
        if not authorization.lower().startswith(_SCHEME):
            raise Unauthenticated("the authorization metadata must read: Bearer TOKEN")
        shown = hash_token(authorization[len(_SCHEME) :].strip()).encode()
        # Every hash is compared, so that the time taken does not tell which one matched.
        matches = [hmac.compare_digest(shown, known) for known in self._hashes]
        if not any(matches):
            raise Unauthenticated("the server does not know this token")
