"""Certificates for tests, each set from an authority of its own."""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Authority:
    """Signs certificates for 127.0.0.1 or another name, as PEM files in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        certificate = self._builder(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.certificate = self._write("ca.pem", certificate)

    def issue(
        self,
        name: str,
        *,
        host: str | None = None,
        uris: Sequence[str] = (),
        lifetime: timedelta = timedelta(days=1),
    ) -> tuple[Path, Path]:
        """Return the paths of a certificate for ``host``, or else 127.0.0.1, and of its key."""
        subject_name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        if host is not None:
            subject_name = x509.DNSName(host)
        names = [subject_name, *map(x509.UniformResourceIdentifier, uris)]
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._builder(subject, key, lifetime).add_extension(
            x509.SubjectAlternativeName(names), critical=False
        )
        key_path = self._directory / f"{name}.key"
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return self._write(f"{name}.pem", certificate), key_path

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        lifetime: timedelta = timedelta(days=1),
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + lifetime)
        )

    def _write(self, name: str, builder: x509.CertificateBuilder) -> Path:
        path = self._directory / name
        certificate = builder.sign(self._key, hashes.SHA256())
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return path
