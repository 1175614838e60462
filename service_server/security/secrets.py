"""Encryption of the configurations that the service stores."""

import base64
import binascii
import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service_server.errors import CannotStart, SecretsUnreadable

_log = structlog.get_logger(__name__)

_KEY_BYTES = 32
_NONCE_BYTES = 12
# An envelope is the id of its key, the nonce and the ciphertext, one after the other.
_KEY_ID_BYTES = 4
_HOW_TO_MAKE_A_KEY = "make one with: openssl rand -base64 32"


class Vault:
    """Authenticated encryption (AES-256-GCM) under several keys, the newest of which encrypts."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """Initialize with keys of 32 bytes, the newest first."""
        self._ciphers = {_key_id(key): AESGCM(key) for key in keys}
        self._newest = _key_id(keys[0])

    def __repr__(self) -> str:
        return f"Vault(keys={[key_id.hex() for key_id in self._ciphers]})"

    @property
    def newest_key_id(self) -> bytes:
        """The first bytes of an envelope under the newest key."""
        return self._newest

    def has_key_of(self, envelope: bytes) -> bool:
        """Return whether the vault has the key of ``envelope``."""
        return key_id_of(envelope) in self._ciphers

    def seal(self, plaintext: bytes, *, pipeline_id: str) -> bytes:
        """Encrypt ``plaintext`` so that it can be decrypted for this pipeline alone."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        ciphertext = self._ciphers[self._newest].encrypt(nonce, plaintext, pipeline_id.encode())
        return self._newest + nonce + ciphertext

    def open(self, envelope: bytes, *, pipeline_id: str) -> bytes:
        """Decrypt an envelope.

        Raises:
            SecretsUnreadable: The vault lacks the key, or the envelope was changed.
        """
        key_id, rest = key_id_of(envelope), envelope[_KEY_ID_BYTES:]
        nonce, ciphertext = rest[:_NONCE_BYTES], rest[_NONCE_BYTES:]
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise SecretsUnreadable(
                f"the configuration of pipeline {pipeline_id!r} was encrypted with key"
                f" {key_id.hex()}, which this service does not have: add that key to"
                " PIPESYNC_ENCRYPTION_KEYS"
            )
        try:
            return cipher.decrypt(nonce, ciphertext, pipeline_id.encode())
        except InvalidTag:
            raise SecretsUnreadable(
                f"the stored configuration of pipeline {pipeline_id!r} is damaged"
            ) from None


def key_id_of(envelope: bytes) -> bytes:
    """Return the id of the key of ``envelope``: the first bytes of the key's SHA-256."""
    return envelope[:_KEY_ID_BYTES]


def parse_keys(text: str) -> list[bytes]:
    """Parse PIPESYNC_ENCRYPTION_KEYS: base64 of 32 bytes each, separated by commas.

    Raises:
        ValueError: A key is invalid; the message contains nothing of it.
    """
    keys = []
    for position, part in enumerate(text.split(","), start=1):
        try:
            key = base64.b64decode(part.strip().translate(_URL_SAFE), validate=True)
        except binascii.Error:
            key = b""
        if len(key) != _KEY_BYTES:
            raise ValueError(f"key {position} is not 32 bytes in base64; {_HOW_TO_MAKE_A_KEY}")
        keys.append(key)
    return keys


def key_from_file(path: Path) -> bytes:
    """Return the key in the file ``path``.

    A missing file is created with a new key, readable by its owner alone.

    Raises:
        CannotStart: The file cannot be read or created, or holds no key.
    """
    try:
        if not path.exists():
            _make_key_file(path)
        (key,) = parse_keys(path.read_text())
    except (OSError, ValueError) as error:
        raise CannotStart(f"cannot use the key file {path}: {error}") from error
    return key


def _make_key_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode())
        file.flush()
        os.fsync(file.fileno())
    try:
        # Another service may create the same file concurrently: the first link wins.
        path.hardlink_to(draft)
        _log.warning("encryption_key_made", path=str(path))
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()[:_KEY_ID_BYTES]


_URL_SAFE = str.maketrans("-_", "+/")
