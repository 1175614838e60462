"""Authentication by bearer tokens, of which a server keeps only hashes, and by certificates."""

import hashlib
import hmac
from collections.abc import Iterable

from google.rpc import code_pb2

from pipesync_rpc.errors import RpcError
from pipesync_rpc.reasons import Reason
from pipesync_server.access import ANYONE, OPERATOR, Principal, Scope
from pipesync_server.certificates import Certificate, parse_subject
from pipesync_server.peer import UNKNOWN_PEER, Peer

_SCHEME = "bearer "


class Unauthenticated(RpcError):
    """The caller must present a token or a certificate that the server knows."""

    default_code = code_pb2.UNAUTHENTICATED
    default_reason = Reason.UNAUTHENTICATED


def hash_token(token: str) -> str:
    """Return the hash that a server stores: SHA-256 of the token's UTF-8 bytes, in hexadecimal."""
    # HTTP passes on bytes that are not UTF-8 as surrogates.
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


def shown_token(authorization: str) -> str:
    """Return the token in an authorization value, e.g. ``Bearer abc``.

    Raises:
        Unauthenticated: The value holds no token.
    """
    if not authorization:
        raise Unauthenticated("this server requires a token, and the call has none")
    if not authorization.lower().startswith(_SCHEME):
        raise Unauthenticated("the authorization metadata must read: Bearer TOKEN")
    return authorization[len(_SCHEME) :].strip()


def shown_certificate(authorization: str, peer: Peer) -> Certificate | None:
    """Return the certificate that identifies a caller; None if its token has to.

    A token takes precedence, so that several tokens may share one certificate.

    Raises:
        Unauthenticated: The certificate has expired since the connection was made.
    """
    if authorization or peer.certificate is None:
        return None
    if peer.certificate.is_expired:
        raise Unauthenticated("the client certificate of this connection has expired")
    return peer.certificate


def unknown_certificate(certificate: Certificate) -> Unauthenticated:
    """Return the error for a certificate that identifies no known caller."""
    return Unauthenticated(
        "the call has no token, and the server does not know its certificate, or no longer: its"
        f" names are {', '.join(certificate.names) or 'not of a supported kind'}"
    )


class TokenAuthenticator:
    """Admits callers with one of the given tokens or certificates."""

    def __init__(self, token_hashes: Iterable[str], certificates: Iterable[str] = ()) -> None:
        """Take the credentials to admit; with none at all, every caller is admitted.

        Args:
            token_hashes: Hashes of tokens, from ``hash_token``.
            certificates: Names of certificates, e.g. ``DNS:service.example.com``.
        """
        self._hashes = tuple(token_hash.lower().encode() for token_hash in token_hashes)
        self._certificates = frozenset(map(parse_subject, certificates))

    def admit(self, authorization: str, peer: Peer = UNKNOWN_PEER) -> Principal:
        """Return the caller, who may do everything.

        Args:
            authorization: The metadata value, e.g. ``Bearer abc``; empty if there is none.
            peer: The caller's connection.

        Raises:
            Unauthenticated: The call has no token or certificate, or an unknown one.
        """
        if not self._hashes and not self._certificates:
            return ANYONE
        if (certificate := shown_certificate(authorization, peer)) is not None:
            for name in certificate.names:
                if name in self._certificates:
                    return operator_by_certificate(name, certificate)
            raise unknown_certificate(certificate)
        shown = hash_token(shown_token(authorization)).encode()
        # Compare every hash, so that the time does not reveal which one matched.
        matches = [hmac.compare_digest(shown, known) for known in self._hashes]
        if not any(matches):
            raise Unauthenticated("the server does not know this token")
        return OPERATOR


def operator_by_certificate(name: str, certificate: Certificate) -> Principal:
    """Return the caller whose certificate of this name allows everything."""
    return Principal(
        name=name,
        scope=Scope.ADMIN,
        certificate=name,
        certificate_expire_time=certificate.expire_time,
    )
