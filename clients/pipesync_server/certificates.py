"""Client certificates: the names that identify callers."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from cryptography import x509
from cryptography.x509.oid import NameOID

_SUBJECT = re.compile("(uri|dns|cn):(.{1,512})", re.IGNORECASE)
# The most recent ones; a caller presents the same certificate with each call.
_MAX_PARSED = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A client's certificate, signed by the server's client authority.

    Attributes:
        names: Its subjects: alternative names as ``URI:...``, then ``DNS:...`` in lower case, then
            the common name as ``CN:...``. Names of other kinds, such as addresses, are omitted.
        expire_time: Time from which it is no longer valid.
    """

    names: tuple[str, ...]
    expire_time: datetime

    @property
    def is_expired(self) -> bool:
        """Whether it has expired since the connection was made."""
        return self.expire_time <= datetime.now(UTC)


def parse_subject(text: str) -> str:
    """Return a certificate's name as ``Certificate.names`` spells it.

    Raises:
        ValueError: The text is no such name.
    """
    found = _SUBJECT.fullmatch(text)
    if found is None or not text.isprintable():
        raise ValueError(
            "must be a name of the certificate: URI:... or DNS:... for an alternative name, or"
            " CN:... for the common name"
        )
    kind, name = found[1].upper(), found[2]
    return f"{kind}:{name.lower() if kind == 'DNS' else name}"


@lru_cache(maxsize=_MAX_PARSED)
def parse_certificate(encoded: bytes) -> Certificate:
    """Parse a certificate that TLS has verified.

    Args:
        encoded: PEM or DER.

    Returns:
        The certificate; one without names if any of its names cannot be read.
    """
    try:
        is_pem = encoded.startswith(b"-----")
        load = x509.load_pem_x509_certificate if is_pem else x509.load_der_x509_certificate
        certificate = load(encoded)
        return Certificate(
            names=tuple(_names(certificate)), expire_time=certificate.not_valid_after_utc
        )
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return Certificate(names=(), expire_time=datetime.min.replace(tzinfo=UTC))


def _names(certificate: x509.Certificate) -> Iterator[str]:
    try:
        alternatives = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value
    except x509.ExtensionNotFound:
        pass
    else:
        for uri in alternatives.get_values_for_type(x509.UniformResourceIdentifier):
            yield f"URI:{uri}"
        for host in alternatives.get_values_for_type(x509.DNSName):
            yield f"DNS:{host.lower()}"
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    # With several common names it is unclear which one the authority vouches for.
    if len(common) == 1:
        yield f"CN:{common[0].value!s}"
